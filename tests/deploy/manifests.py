"""Documents of deploy/kubernetes, as they are written and as kustomize puts them together."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.conftest import ROOT

FOLDER: Final = ROOT / "deploy" / "kubernetes"
BASE, COMPONENTS = FOLDER / "base", FOLDER / "components"
OVERLAYS: Final = sorted(each.parent for each in (FOLDER / "overlays").glob("*/kustomization.yaml"))

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    """Those of a file, or of every file in a folder and below it, without kustomize's own."""
    files = (
        [each for each in sorted(path.rglob("*.yaml")) if each.name != "kustomization.yaml"]
        if path.is_dir()
        else [path]
    )
    return [
        each
        for file in files
        for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if each
    ]


def one(found: list[Document], kind: str, name: str) -> Document:
    """The document of a kind and name."""
    (document,) = [
        each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return document


def pods(found: list[Document]) -> Iterator[tuple[str, Document]]:
    """Templates of pods, with their labels and spec, by the name of what makes them."""
    for document in found:
        if document["kind"] in ("StatefulSet", "Deployment"):
            yield document["metadata"]["name"], document["spec"]["template"]


def containers(pod: Document) -> list[Document]:
    """All of a template, those that run before the others first."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def put_together(folder: Path) -> list[Document]:
    """What kustomize makes of a folder. Skips the test where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def with_component(name: str, scratch: Path) -> list[Document]:
    """The first overlay with one component more.
    It is made beside the real ones, which kustomize asks for.
    """
    overlay = scratch / "deploy" / "kubernetes" / "overlays" / "with"
    shutil.copytree(FOLDER, scratch / "deploy" / "kubernetes")
    overlay.mkdir()
    parts = {"resources": ["../../base"], "components": [f"../../components/{name}"]}
    shutil.copy(OVERLAYS[0] / "resources.yaml", overlay)
    told = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **parts}
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump({**told, "patches": [{"path": "resources.yaml"}]})
    )
    return put_together(overlay)
