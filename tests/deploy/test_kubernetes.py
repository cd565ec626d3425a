"""Manifests: they validate against the schemas of Kubernetes, and say the same as each
other and as the program.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

from sc2onnx.cli.options import parser  # noqa: E402
from sc2onnx.serve.settings import Settings  # noqa: E402
from tests.deploy.manifests import (  # noqa: E402
    BASE,
    COMPONENTS,
    FOLDER,
    OVERLAYS,
    Document,
    containers,
    documents,
    one,
    pods,
    put_together,
    with_component,
)

VERSIONS = ("1.33", "1.37")
"""Of Kubernetes: the first that has everything here, and the last whose schemas are at hand."""

NO_SCHEMA = {"PodMonitor"}
"""Kinds that Kubernetes itself does not have."""

BASES = documents(BASE)
TEMPLATES = dict(pods(BASES))
PARTS = ("overlays", "traces/engine.yaml", "traces/front.yaml", "adapter.yaml")
"""Patches, and the values of a chart."""

FILES = [each for each in FOLDER.rglob("*.yaml") if not any(part in str(each) for part in PARTS)]
WHOLE = [
    each
    for file in sorted(FILES)
    if file.name != "kustomization.yaml"
    for each in documents(file)
    if each["kind"] not in NO_SCHEMA
]


def named(document: Document) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def check(document: Document, version: str) -> None:
    """Raise if it is not what the schema says, or says more."""
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", WHOLE, ids=named)
def test_documents_are_what_the_schemas_say(document: Document, version: str) -> None:
    check(document, version)


def test_a_wrong_document_is_found() -> None:
    wrong = {**one(BASES, "Service", "sc2onnx"), "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong, VERSIONS[0])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda each: each.name)
def test_overlays_are_put_together(overlay: Path) -> None:
    found = put_together(overlay)
    for document in found:
        if document["kind"] not in NO_SCHEMA:
            check(document, VERSIONS[0])
    for _, pod in pods(found):
        for each in containers(pod):
            # a registry, and a version
            assert re.fullmatch(r"[\w.-]+/[\w./-]+:\d[\w.-]*", each["image"])


@pytest.mark.parametrize("name", sorted(each.name for each in COMPONENTS.iterdir()))
def test_components_are_put_together(name: str, tmp_path: Path) -> None:
    found = with_component(name, tmp_path)
    for document in found:
        if document["kind"] not in NO_SCHEMA:
            check(document, VERSIONS[0])
    engine = one(found, "StatefulSet", "sc2onnx-engine")["spec"]
    (only,) = engine["template"]["spec"]["containers"]
    given = {each["name"] for each in only["env"]}
    assert {"SC2ONNX_CACHE", "SC2ONNX_SERVE_PREFIX_MEMORY"} <= given  # no part takes another's away
    assert (
        ("OTEL_EXPORTER_OTLP_ENDPOINT" in given)
        == ("--traces=otlp" in only["args"])
        == (name == "traces")
    )
    claims = [each for each in found if each["kind"] == "PersistentVolumeClaim"]
    volume = next(
        each for each in engine["template"]["spec"]["volumes"] if each["name"] == "bundles"
    )
    assert ("persistentVolumeClaim" in volume) == bool(claims) == (name != "bundle-image")
    assert ("replicas" in engine) == (name != "autoscaling")


@pytest.mark.parametrize(
    ("pod", "place"),
    [(name, place) for name in TEMPLATES for place in range(len(containers(TEMPLATES[name])))],
)
def test_containers_have_no_rights(pod: str, place: int) -> None:
    spec, container = TEMPLATES[pod]["spec"], containers(TEMPLATES[pod])[place]
    assert spec["automountServiceAccountToken"] is False
    # variables of services would be taken for the server's
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    sealed = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["securityContext"] == sealed
    writable = [
        each["mountPath"] for each in container.get("volumeMounts", []) if not each.get("readOnly")
    ]
    assert writable in ([], ["/cache"])


def test_who_runs_is_the_image_s_user() -> None:
    text = (FOLDER.parent / "container" / "Containerfile").read_text(encoding="utf-8")
    found = re.search(r"(?m)^USER (\d+):(\d+)$", text)
    assert found is not None
    for pod in TEMPLATES.values():
        context = pod["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (
            int(found[1]),
            int(found[2]),
            int(found[2]),
        )


def expanded(container: Document) -> list[str]:
    """Arguments with the variables that the base gives the container."""
    (kustomization,) = documents(BASE / "kustomization.yaml")
    made = {each["name"]: each["literals"] for each in kustomization["configMapGenerator"]}
    given = [each["configMapRef"]["name"] for each in container.get("envFrom", [])]
    variables = dict(literal.split("=", 1) for name in given for literal in made[name])
    return [
        re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], each)
        for each in container["args"]
    ]


def command_lines() -> list[tuple[str, list[str]]]:
    """Of the base, and of what the autoscaled front gets in its place."""
    base = [
        (f"{name}-{each['name']}", expanded(each))
        for name, pod in TEMPLATES.items()
        for each in containers(pod)
    ]
    (component,) = documents(COMPONENTS / "autoscaling" / "kustomization.yaml")
    patches = [change for each in component["patches"] for change in yaml.safe_load(each["patch"])]
    (args,) = [change["value"] for change in patches if change["path"].endswith("/args")]
    return [*base, ("autoscaled-front", args)]


def parsed(args: list[str]) -> Any:
    """As the program takes it."""
    return parser().parse_args(args)


@pytest.mark.parametrize(
    ("name", "args"), command_lines(), ids=lambda each: each if isinstance(each, str) else ""
)
def test_command_lines_are_taken(name: str, args: list[str]) -> None:
    assert parsed(args).command == args[0]
    listens = args[0] in ("serve", "route")
    assert ("--key-file=/run/secrets/sc2onnx/keys" in args) == listens


@pytest.mark.parametrize("component", ["autoscaling", "traces"])
def test_command_lines_that_components_make_are_taken(component: str, tmp_path: Path) -> None:
    for _, pod in pods(with_component(component, tmp_path)):
        for each in containers(pod):
            assert parsed(each["args"]).command == each["args"][0]


def test_the_engine_serves_what_was_warmed_from_where_it_was_kept() -> None:
    warm, engine = containers(TEMPLATES["sc2onnx-engine"])
    bundle = parsed(expanded(warm)).bundle
    assert parsed(expanded(engine)).bundle == bundle
    assert [warm["env"], warm["envFrom"]] == [engine["env"], engine["envFrom"]]
    assert [warm["command"], warm["resources"], warm["image"]] == [
        engine["command"],
        engine["resources"],
        engine["image"],
    ]
    mounts = {each["name"]: each["mountPath"] for each in warm["volumeMounts"]}
    assert (
        mounts.items()
        <= {each["name"]: each["mountPath"] for each in engine["volumeMounts"]}.items()
    )
    assert {"name": "SC2ONNX_CACHE", "value": mounts["cache"]} in warm["env"]
    assert bundle.startswith(f"{mounts['bundles']}/")


@pytest.mark.parametrize("name", TEMPLATES)
def test_ports_keys_and_volumes_are_those_that_there_are(name: str) -> None:
    spec = TEMPLATES[name]["spec"]
    (container,) = spec["containers"]
    (port,) = container["ports"]
    assert f"--port={port['containerPort']}" in container["args"]
    assert port["containerPort"] == Settings().port
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == set(volumes)
    (keys,) = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "keys"]
    assert f"--key-file={keys}/keys" in container["args"]
    assert volumes["keys"]["secret"]["defaultMode"] == 0o440
    probes = [container[each] for each in container if each.endswith("Probe")]
    assert {each["httpGet"]["port"] for each in probes} == {port["name"]}


@pytest.mark.parametrize("name", TEMPLATES)
def test_pods_have_the_time_that_their_end_takes(name: str) -> None:
    spec = TEMPLATES[name]["spec"]
    (container,) = spec["containers"]
    (drain,) = [
        float(each.partition("=")[2])
        for each in container["args"]
        if each.startswith("--drain-seconds=")
    ]
    until = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    probe = container["readinessProbe"]
    assert spec["terminationGracePeriodSeconds"] >= until + drain + 10
    assert until >= probe["periodSeconds"]


def test_engines_are_guaranteed_whole_processors() -> None:
    for each in containers(TEMPLATES["sc2onnx-engine"]):
        assert each["resources"]["requests"] == each["resources"]["limits"]
        assert str(int(each["resources"]["limits"]["cpu"])) == each["resources"]["limits"]["cpu"]


def test_the_front_knows_each_engine_by_its_name() -> None:
    engine = one(BASES, "StatefulSet", "sc2onnx-engine")
    service = one(BASES, "Service", engine["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    (container,) = TEMPLATES["sc2onnx-front"]["spec"]["containers"]
    name, domain = engine["metadata"]["name"], service["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    expected = [
        f"--member=http://{name}-{number}.{domain}:{port}"
        for number in range(engine["spec"]["replicas"])
    ]
    assert [each for each in container["args"] if each.startswith("--member")] == expected
    autoscaled = dict(command_lines())["autoscaled-front"]
    assert f"--discover={domain}:{port}" in autoscaled
    assert [each for each in container["args"] if not each.startswith("--member")] == [
        each for each in autoscaled if "discover" not in each
    ]


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"])
def test_selectors_select_the_pods_that_they_are_named_for(kind: str) -> None:
    found = [each for each in [*BASES, *documents(COMPONENTS)] if each.get("kind") == kind]
    assert found
    for each in found:
        spec = each["spec"]
        selector = spec.get("podSelector", spec.get("selector", {}))
        wanted = selector.get("matchLabels", selector)
        chosen = [
            name
            for name, pod in TEMPLATES.items()
            if wanted.items() <= pod["metadata"]["labels"].items()
        ]
        assert chosen
        if each["metadata"]["name"] in TEMPLATES:
            assert chosen == [each["metadata"]["name"]]


def test_workloads_select_and_spread_their_own_pods() -> None:
    for document in BASES:
        if document["metadata"]["name"] in TEMPLATES and "template" in document["spec"]:
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"] == labels
            (spread,) = document["spec"]["template"]["spec"]["topologySpreadConstraints"]
            assert spread["labelSelector"]["matchLabels"] == labels


def test_engines_answer_the_front_alone() -> None:
    policy = one(BASES, "NetworkPolicy", "sc2onnx-engine")["spec"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"] == TEMPLATES["sc2onnx-front"]["metadata"]["labels"]
    assert rule["ports"] == [{"protocol": "TCP", "port": Settings().port}]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert "egress" not in policy


def test_one_engine_at_a_time_goes() -> None:
    for name in TEMPLATES:
        assert one(BASES, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    engine = one(BASES, "StatefulSet", "sc2onnx-engine")["spec"]
    assert engine["updateStrategy"]["rollingUpdate"] == {"partition": 0}
    assert engine["minReadySeconds"] >= 60


def test_images_have_versions() -> None:
    (kustomization,) = documents(BASE / "kustomization.yaml")
    tags = {each["name"]: each["newTag"] for each in kustomization["images"]}
    used = {each["image"] for pod in TEMPLATES.values() for each in containers(pod)}
    assert used == set(tags)
    assert all(re.fullmatch(r"\d[\w.-]*", tag) for tag in tags.values())


def test_the_scaler_s_metric_is_the_adapter_s() -> None:
    (scaler,) = documents(COMPONENTS / "autoscaling" / "scaler.yaml")
    (adapter,) = documents(COMPONENTS / "autoscaling" / "adapter.yaml")
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == adapter["rules"]["custom"][0]["name"]["as"]
    target = scaler["spec"]["scaleTargetRef"]
    assert one(BASES, target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    assert scaler["spec"]["minReplicas"] >= 2
