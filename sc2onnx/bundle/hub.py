"""Bundles on the Hugging Face hub: pushed with their model card, fetched by their id.

The runtime comes here for an id only, and huggingface_hub is imported no sooner:
tokenizers brings it along.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sc2onnx.bundle import records
from sc2onnx.bundle.contract import CARD_FILE, MANIFEST_FILE
from sc2onnx.bundle.hub_errors import TOO_MANY, Wording, explained, status_of
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.model_card import PLACE
from sc2onnx.errors import BundleIntegrityError, BundleNotFoundError, HubError, RequestError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MOST_CARD_BYTES: Final = 4 << 20

_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""``owner/name``, with one slash; a path that looks like that can be written ``./owner/name``."""


_BUNDLE: Final = Wording(
    missing=BundleNotFoundError,
    refused=HubError,
    absent="no directory {repo}, and no hub repository {repo}",
    uncached=(
        "no directory {repo}, and the hub cannot be reached nor does its local cache hold {repo}"
    ),
    incomplete=(
        f"{{repo}} on the hub is no bundle (it has no {MANIFEST_FILE}): make one with "
        "`sc2onnx export {repo} OUT`"
    ),
    denied="{repo}: the hub refused ({status}): {remedy}",
    failed=(
        "{repo} on the hub could not be used ({error}): correct the name, or try again when "
        "the hub can be reached"
    ),
)
"""For what may be a path or a bundle on the hub."""

_REPOSITORY: Final = replace(
    _BUNDLE,
    absent="no hub repository {repo}",
    uncached="the hub cannot be reached nor does its local cache hold {repo}",
)
"""For a repository that is pushed to."""


def is_id(text: str) -> bool:
    """Whether this may be a repository of the hub."""
    return _ID.fullmatch(text) is not None


def mistyped(text: str, revision: str | None) -> str:
    """Why an ``owner/name`` that does not exist here is taken for a path and not for a
    hub id; empty if it is not.

    It is where there is a directory ``owner``, and no ``revision`` says that the hub is meant.
    """
    path = Path(text)
    if revision is not None or path.exists() or not path.parent.is_dir():
        return ""
    return (
        f"the directory {path.parent} has no {path.name}: correct the name, or give a revision "
        f"(main, say) if the hub's {text} is meant"
    )


def located(bundle: str | Path, revision: str | None = None) -> Path:
    """The directory of a bundle: what exists wins, otherwise ``owner/name`` is a hub id, of which
    the manifest's files are downloaded.

    Where there is a directory ``owner``, an id is one only with a ``revision``: branch, tag or
    commit. Where the hub does not answer within :data:`PATIENCE`, huggingface_hub's cache is
    asked. ``HF_HOME``, ``HF_HUB_OFFLINE`` and the login of huggingface_hub are honoured. Raises
    :class:`BundleNotFoundError`, :class:`~sc2onnx.errors.BundleError` for a manifest that is
    none, and :class:`HubError`.
    """
    path, repo = Path(bundle), str(bundle)
    if path.exists() or not is_id(repo):
        if revision is not None:
            raise RequestError(
                f"{bundle} is no hub id, so it has no revision {revision!r}: leave the revision out"
            )
        return path
    if reason := mistyped(repo, revision):
        raise BundleNotFoundError(f"no bundle at {repo}: {reason}")
    with explained(repo, revision, _BUNDLE):
        return _cached(repo, revision) or _fetched(
            repo, revision, local=not answers(repo, revision)
        )


def _cached(repo: str, revision: str | None) -> Path | None:
    """The whole bundle of a commit, which never changes, if it is in huggingface_hub's
    cache: no need to ask the hub.
    """
    from huggingface_hub import errors

    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        return None
    try:
        found = _fetched(repo, revision, local=True)
    except errors.LocalEntryNotFoundError:
        return None
    return found if all((found / name).exists() for name in Manifest.read(found).files) else None


def _fetched(repo: str, revision: str | None, *, local: bool) -> Path:
    """Where huggingface_hub keeps it. ``local``: without asking the hub."""
    from huggingface_hub import hf_hub_download, snapshot_download

    manifest = Path(hf_hub_download(repo, MANIFEST_FILE, revision=revision, local_files_only=local))
    wanted = [MANIFEST_FILE, CARD_FILE, *Manifest.read(manifest.parent).files]
    return Path(
        snapshot_download(
            repo, revision=manifest.parent.name, allow_patterns=wanted, local_files_only=local
        )
    )


PATIENCE: Final = 5.0
"""Seconds in which the hub must have answered; ``HF_HUB_ETAG_TIMEOUT`` in the
environment says otherwise.
"""


def answers(repo: str, revision: str | None = None) -> bool:
    """Whether the hub can be reached, asked once, in a bounded time: a download that finds no
    network tries again and again.

    Raises huggingface_hub's errors where the hub answers that it has no such
    repository or revision, or refuses.
    """
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return False
    said = os.environ.get("HF_HUB_ETAG_TIMEOUT", "")
    limit, outcome = (
        float(said) if said.isdigit() and int(said) else PATIENCE,
        list[Exception | None](),
    )

    def ask() -> None:
        try:
            HfApi().model_info(repo, revision=revision or constants.DEFAULT_REVISION, timeout=limit)
        except Exception as error:
            # whatever the HTTP library below raises: it is looked at where it is waited for
            outcome.append(error)
        else:
            outcome.append(None)

    # looking up a name cannot be given a limit
    asking = threading.Thread(target=ask, name="sc2onnx-hub", daemon=True)
    asking.start()
    asking.join(limit)
    error = outcome[0] if outcome else TimeoutError()
    if (
        isinstance(error, errors.HfHubHTTPError)
        and status_of(error) < 500
        and status_of(error) != TOO_MANY
    ):
        raise error
    return error is None


def push(
    directory: Path,
    manifest: Manifest,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Make the repository ``owner/name`` hold this bundle, in one commit whose address is returned.

    ``directory`` is a bundle that :class:`~sc2onnx.runtime.opening.bundle.Bundle` has opened, and
    so holds no link that leads out of it. What goes there are the manifest, the files that it
    lists, hashed once more as they are sent, and the card, which has the licence and what it asks
    of whoever passes the weights on; what an earlier bundle had and this one has not is deleted,
    other files stay. The repository is created if there is none, ``private`` if wanted, and the
    branch ``revision`` too. Raises :class:`HubError`.
    """
    from huggingface_hub import (
        CommitOperationAdd,
        CommitOperationCopy,
        CommitOperationDelete,
        HfApi,
    )

    if not is_id(repo):
        raise RequestError(f"the repository is {repo!r}, expected OWNER/NAME")
    card = _card(directory).replace(PLACE, repo)
    with explained(repo, revision, _REPOSITORY):
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        names = [*manifest.files, MANIFEST_FILE]
        added = [CommitOperationAdd(name, directory / name) for name in manifest.files]
        # hashed as it will be sent, which the hub compares with what it gets
        for operation in added:
            _check_sent(operation.path_in_repo, operation.upload_info.sha256.hex(), manifest)
        there = {entry.path for entry in api.list_repo_tree(repo, revision=revision)}
        gone = (_listed(api, repo, revision) if MANIFEST_FILE in there else set()) & there - set(
            names
        )
        removed = [CommitOperationDelete(name) for name in sorted(gone)]
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *added,
            CommitOperationAdd(MANIFEST_FILE, manifest.to_json().encode()),
            CommitOperationAdd(CARD_FILE, card.encode()),
            *removed,
        ]
        what = message or (
            f"{manifest.provenance.source}, {manifest.precision} for {manifest.target}, by "
            f"{manifest.provenance.exporter}"
        )
        return str(
            api.create_commit(repo, operations, commit_message=what, revision=revision).commit_url
        )


def _card(directory: Path) -> str:
    """Text of the bundle's card. Raises :class:`BundleIntegrityError` for one that is missing or no
    text of a reasonable size.
    """
    path = directory / CARD_FILE
    try:
        if not path.is_file():
            raise ValueError("it is missing")
        return records.contents(path, _MOST_CARD_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise BundleIntegrityError(
            f"the card {path} cannot be pushed ({error}): write one, or export the bundle again"
        ) from error


def _check_sent(name: str, sha256: str, manifest: Manifest) -> None:
    if sha256 != manifest.files[name].sha256:
        raise BundleIntegrityError(
            f"{name} changed while it was pushed, so nothing was: push again "
            "when nobody writes to it"
        )


def _listed(api: HfApi, repo: str, revision: str | None) -> set[str]:
    """Files of the bundle that is there."""
    path = Path(api.hf_hub_download(repo, MANIFEST_FILE, revision=revision))
    return set(Manifest.read(path.parent).files)
