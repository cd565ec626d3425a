"""What manifests ask of a server, asked of one: probes, metrics, memory, and the
commands of docs/deploy.md.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

import sc2onnx  # noqa: E402
from sc2onnx.serve.settings import Settings  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.deploy.manifests import (  # noqa: E402
    BASE,
    COMPONENTS,
    FOLDER,
    OVERLAYS,
    containers,
    documents,
    pods,
)
from tests.serve.conftest import Served, serving  # noqa: E402

SCRIPT = ROOT / "scripts" / "kubernetes_resources.py"
PAGE = ROOT / "docs" / "deploy.md"
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def keyed(bundle: Path) -> Iterator[Served]:
    """A server as a pod has it: with keys."""
    with serving(sc2onnx.load(bundle), Settings(port=0, keys=(KEY,))) as running:
        yield running


def probes() -> set[str]:
    """Paths."""
    found = [each for _, pod in pods(documents(BASE)) for each in containers(pod)]
    return {
        each[name]["httpGet"]["path"] for each in found for name in each if name.endswith("Probe")
    }


@pytest.mark.parametrize("path", sorted(probes()))
def test_probes_are_answered_without_a_key(keyed: Served, path: str) -> None:
    assert keyed.get(path).status_code == 200


def test_the_monitor_s_path_has_what_the_adapter_asks_for(keyed: Served) -> None:
    (monitor,) = [
        each for each in documents(COMPONENTS / "monitoring") if each["kind"] == "PodMonitor"
    ]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = {
        port["name"]
        for _, pod in pods(documents(BASE))
        for each in containers(pod)
        for port in each.get("ports", [])
    }
    assert endpoint["port"] in ports
    page = keyed.get(endpoint["path"], headers={"authorization": f"Bearer {KEY}"}).text
    (adapter,) = documents(COMPONENTS / "autoscaling" / "adapter.yaml")
    (rule,) = adapter["rules"]["custom"]
    asked = set(
        re.findall(r"\b(?:llamacpp|vllm|sc2onnx):\w+", rule["seriesQuery"] + rule["metricsQuery"])
    )
    assert len(asked) == 2
    for name in asked:
        assert re.search(rf"(?m)^{name} ", page), name


def printed(*arguments: object) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def memory(text: str) -> int:
    """Of the engine, in bytes."""
    (pod,) = [pod for _, pod in pods([yaml.safe_load(text)])]
    sizes = {each["resources"]["limits"]["memory"] for each in containers(pod)}
    (size,) = sizes
    return int(size.removesuffix("Mi")) << 20


def test_an_engine_keeps_within_the_memory_that_the_script_says(int8_bundle: Path) -> None:
    """Its requests at full length, and as many files kept as it may."""
    batch, files = 2, 3
    text = printed(int8_bundle, "--max-batch", batch, "--files", files)
    (kept,) = map(int, re.findall(r'PREFIX_MEMORY, value: "(\d+)"', text))
    model = sc2onnx.load(int8_bundle, max_batch=batch, prefix_memory=kept)
    for number in range(files + 2):
        full = f"x{number} = 1\n" * model.manifest.model.context_length
        model.infill(full, "", max_new_tokens=1)  # as much of it as the context takes
    assert 0 < model.engine.store.nbytes <= kept
    assert model.engine.store.evicted
    used = model.memory_footprint()
    assert used.cache <= (batch + files) * kept / files
    assert memory(text) >= used.weights + (batch + files) * kept / files + (1 << 30)
    assert used.resident_total is None or used.resident_total < memory(text)


def test_more_requests_and_files_take_more(int8_bundle: Path) -> None:
    few, many = (printed(int8_bundle, "--files", files, "--processors", 6) for files in (0, 4000))
    assert memory(many) > memory(few) >= 1 << 30
    assert 'cpu: "6"' in many


def test_a_precision_that_is_none_is_told_of() -> None:
    command = [sys.executable, str(SCRIPT), "--shape", "3b", "--precision", "int5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "expected one of fp32, int4" in done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda each: each.name)
def test_resources_of_overlays_are_what_the_script_prints(overlay: Path) -> None:
    first, _, rest = (overlay / "resources.yaml").read_text(encoding="utf-8").partition("\n")
    program, script, *arguments = shlex.split(first.removeprefix("# "))
    assert (program, ROOT / script) == ("python", SCRIPT)
    assert printed(*arguments) == rest


def test_the_base_has_the_figures_of_an_overlay() -> None:
    """So that it can be tried as it is."""
    base = dict(pods(documents(BASE)))["sc2onnx-engine"]
    text = (OVERLAYS[0] / "resources.yaml").read_text(encoding="utf-8")
    assert {
        int(each["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
        for each in containers(base)
    } == {memory(text)}


def test_the_page_s_commands_name_what_there_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    folders = re.findall(r"kubectl apply .*-k (\S+)", text)
    assert folders
    assert all((ROOT / each / "kustomization.yaml").is_file() for each in folders)
    made = set(re.findall(r"create secret generic (\S+)", text))
    used = set(
        re.findall(
            r"secretName: ([\w-]+)", "".join(each.read_text() for each in FOLDER.rglob("*.yaml"))
        )
    )
    asked = {each["authorization"]["credentials"]["name"] for each in _endpoints()}
    assert made == used | asked
    for path in re.findall(r"`(deploy/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def _endpoints() -> list[dict[str, dict[str, dict[str, str]]]]:
    return [
        point
        for each in documents(COMPONENTS)
        if each.get("kind") == "PodMonitor"
        for point in each["spec"]["podMetricsEndpoints"]
    ]
