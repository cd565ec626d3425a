"""What a manifest says stands in the card as it is, whatever it is: it adds no line, no
front matter and no markup.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.model_card import render
from sc2onnx.bundle.provenance import Provenance
from sc2onnx.bundle.texts import plain_text

EVIL = (
    "x\n---\nlicense: mit\n# Title | `code` <script>alert(1)</script> [click](http://x) "
    "![i](y) \x1b[2J \u202e*bold*"
)


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return Manifest.read(bundle)


def test_the_card_of_a_bundle_is_what_its_manifest_gives(bundle: Path, manifest: Manifest) -> None:
    assert render(manifest) == (bundle / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("field", ["source", "revision", "license", "exporter"])
def test_nothing_of_the_provenance_formats_anything(manifest: Manifest, field: str) -> None:
    origin = Provenance("team/mini", "0123", "mit", "sc2onnx 0.1.0")
    plain = render(replace(manifest, provenance=origin)).splitlines()
    evil = replace(origin, **{field: EVIL})  # type: ignore[arg-type]
    card = render(replace(manifest, provenance=evil)).splitlines()
    assert len(card) == len(plain)
    assert [line.split(":")[0] for line in card[:10]] == [line.split(":")[0] for line in plain[:10]]
    text = "\n".join(card[10:])
    assert not any(character in text for character in "\x1b\u202e")
    outside_code = [
        part
        for line in card[10:]
        for number, part in enumerate(line.split("``"))
        if number % 2 == 0
    ]
    assert not any("<script" in part.replace("\\<", "") for part in outside_code)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("bigcode-openrail-m", "bigcode-openrail-m"),
        ("apache-2.0", "apache-2.0"),
        ("null", '"null"'),
        ("No", '"No"'),
        ("1.5", '"1.5"'),
        ("1e5", '"1e5"'),
        ("0x1f", '"0x1f"'),
        ("mit # free", '"mit # free"'),
        ("a: b", '"a: b"'),
        ("{a}", '"{a}"'),
        ('say "x"', '"say \\"x\\""'),
    ],
)
def test_a_licence_is_a_text_of_yaml(manifest: Manifest, value: str, written: str) -> None:
    card = render(replace(manifest, provenance=replace(manifest.provenance, license=value)))
    assert card.splitlines()[1] == f"license: {written}"


def test_plain_text() -> None:
    assert plain_text("a b é 日 \u200d👩") == "a b é 日 \u200d👩"
    assert plain_text("a\x00\x1b\x7f\x9b\u2028\u202e\ud800b") == "a" + "\ufffd" * 7 + "b"
