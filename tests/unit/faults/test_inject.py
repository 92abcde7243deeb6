"""Damage changes what it says, a seed repeats it, and hostile inputs are what their rules say."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import strategies as st

from tests.faults.hostile import TEXTS, drawn, edited, edits
from tests.faults.inject import DAMAGES, Damage, damage, files_of, forget


@pytest.mark.parametrize("harm", dict.fromkeys(DAMAGES), ids=lambda harm: str(harm.__name__))
def test_every_damage_changes_the_file(tmp_path: Path, harm: Damage) -> None:
    path = tmp_path / "file"
    content = b'{"value": 12345, "text": "twelve"}' * 40
    path.write_bytes(content)
    assert harm(path, Random(1))
    assert not path.is_file() or path.read_bytes() != content


def test_damage_is_repeated_by_its_seed(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        for name in "abc":
            (tmp_path / name).write_bytes(b"0123456789" * 50)
        files = sorted(tmp_path.iterdir())
        told.append([damage(files[0], Random(number), files) for number in (3, 4)])
    assert told[0] == told[1]


def test_a_forgotten_stage_is_out_of_the_cache_with_its_object(tmp_path: Path) -> None:
    digest = "ab" * 32
    for path in (tmp_path / "store" / "objects" / digest / "file", tmp_path / "store" / "manifests" / f"{digest}.json"):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    entry = tmp_path / "cache" / "quantize" / "1.json"
    told = set()
    for number in range(20):
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_text(json.dumps({"result": {"object": {"schema_version": 1, "digest": f"sha256:{digest}"}}}))
        told.add(forget(tmp_path, Random(number)))
        assert not entry.exists()
    assert told == {"forgotten: quantize", "forgotten: quantize with their objects"}
    assert files_of(tmp_path, "weights") == files_of(tmp_path, "manifests") == []


def test_an_entry_that_was_damaged_before_can_be_forgotten_too(tmp_path: Path) -> None:
    entry = tmp_path / "cache" / "measure" / f"{'0' * 64}.json"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"\xff\xfe")
    assert forget(tmp_path, Random(1)).startswith("forgotten: measure")
    assert not entry.exists()


def test_a_seed_repeats_what_hypothesis_draws() -> None:
    tree = {"a": {"b": [1, 2]}, "c": "x"}
    assert drawn(edits(tree), 5) == drawn(edits(tree), 5)
    assert len({repr(drawn(edits(tree), number)) for number in range(6)}) > 3
    assert drawn(st.just(3), 1) == 3


def test_an_edit_leaves_the_original_alone() -> None:
    tree = {"a": {"b": [1, 2]}, "c": "x"}
    for number in range(30):
        edited(tree, drawn(edits(tree), number))
    assert tree == {"a": {"b": [1, 2]}, "c": "x"}


def test_texts_that_have_to_be_refused_are_another_text() -> None:
    text = b"name: faults\nlist:\n  - 1\n"
    assert all(mangle(text) != text for mangle, _ in TEXTS.values())
