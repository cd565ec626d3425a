"""What huggingface_hub raises becomes an error of ours, with the
remedy: the one ladder for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sc2onnx.errors import Sc2onnxError

TOO_MANY: Final = 429
"""HTTP's status for requests that come too fast."""

_REMEDIES: Final[Mapping[int, str]] = {
    401: "log in with `hf auth login`, or set HF_TOKEN",
    403: "use a token that may write to it, of an account that it belongs to",
    404: "correct the name, or log in if it is private",
}
"""HTTP's status of a refusal -> what to do."""


@dataclass(frozen=True, slots=True)
class Wording:
    """How errors speak of what is asked of the hub.

    ``missing`` is the class of errors for what is not there, ``refused`` that for all else. The
    texts may name ``{repo}`` and ``{error}``: ``absent`` is for a repository that does not exist,
    ``uncached`` for one that is neither reachable nor in the local cache (``{at}``: at which
    revision, if one was asked for), ``incomplete`` for one
    that lacks a file, ``denied`` for a refusal by HTTP's status (``{status}``, ``{remedy}``) and
    ``failed`` for everything that no other text is for.
    """

    missing: type[Sc2onnxError]
    refused: type[Sc2onnxError]
    absent: str
    uncached: str
    incomplete: str
    denied: str
    failed: str


@contextmanager
def explained(repo: str, revision: str | None, wording: Wording) -> Iterator[None]:
    """Turn huggingface_hub's errors inside the block into those that ``wording`` names.

    Errors of ours pass through as they are.
    """
    from huggingface_hub import errors

    missing, refused = wording.missing, wording.refused
    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except Sc2onnxError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise refused(
            f"there is no login for the hub, which {repo} needs: {_REMEDIES[401]}"
        ) from error
    except errors.GatedRepoError as error:
        login = "log in with `hf auth login`"
        raise refused(f"{repo} is gated: accept its licence on the hub, then {login}") from error
    except errors.RevisionNotFoundError as error:
        found = f"{repo} has no revision {revision!r} on the hub"
        raise missing(f"{found}: give a branch, tag or commit that exists") from error
    except errors.RepositoryNotFoundError as error:
        raise missing(f"{wording.absent.format(repo=repo)}: {_REMEDIES[404]}") from error
    except errors.LocalEntryNotFoundError as error:  # before the next one, which it is a kind of
        remedy = "correct the path, or, for a hub id, connect or unset HF_HUB_OFFLINE"
        raise missing(f"{wording.uncached.format(repo=repo, at=at)}: {remedy}") from error
    except errors.EntryNotFoundError as error:
        raise missing(wording.incomplete.format(repo=repo, error=error)) from error
    except errors.OfflineModeIsEnabled as error:
        raise refused(f"HF_HUB_OFFLINE is set, and {repo} is on the hub: unset it") from error
    except errors.HfHubHTTPError as error:
        status, remedy = status_of(error), _REMEDIES.get(status_of(error), "try again")
        shown = status or str(error).strip().splitlines()[0]
        raise refused(wording.denied.format(repo=repo, status=shown, remedy=remedy)) from error
    except Exception as error:  # the HTTP library below, and its exceptions, differ by version
        raise refused(wording.failed.format(repo=repo, error=error)) from error


def status_of(error: Exception) -> int:
    """Return HTTP's status of an answer that became an error, 0 where there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))
