"""A result is found under an equal key only; damage is a miss with a warning."""

import json
import logging
from pathlib import Path

import pytest

from registry.contracts import Failure, ObjectRef, StageResult
from registry.contracts.record_types import RECORD_TYPES
from registry.hashing import digest_of
from registry.stage_cache import StageCache, StageKey
from registry.store import Store
from tests.records import artifact_record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path, store: Store) -> StageCache:
    return StageCache(tmp_path / "cache", store, RECORD_TYPES)


def key(**changes: object) -> StageKey:
    fields = {
        "stage": "quantize",
        "stage_version": 1,
        "config": {"bits": 4},
        "inputs": {"checkpoint": "sha256:a"},
        "libraries": {"torch": "1"},
    }
    return StageKey.model_validate(fields | changes)


def object_in(store: Store, content: str = "w") -> ObjectRef:
    with store.staging() as staging:
        (staging / "weights").write_text(content)
        return store.put(staging)


def result_in(store: Store, content: str = "w") -> StageResult:
    reference = object_in(store, content)
    record = artifact_record(reference.digest).model_dump(mode="json")
    return StageResult(stage="quantize", record=record, object=reference)


def entry_file(cache: StageCache, key: StageKey) -> Path:
    return cache._path(key)


def test_found_again(cache: StageCache, store: Store) -> None:
    result = result_in(store)
    cache.put(key(), "gptq", result)
    assert cache.get(key()) == result
    assert [entry.result for entry in cache.entries()] == [result]


@pytest.mark.parametrize(
    "change",
    [
        {"stage_version": 2},
        {"config": {"bits": 8}},
        {"inputs": {"checkpoint": "sha256:b"}},
        {"inputs": {"checkpoint": "sha256:a", "calibration": "sha256:c"}},
        {"libraries": {"torch": "2"}},
    ],
)
def test_any_difference_is_another_key(cache: StageCache, store: Store, change: dict[str, object]) -> None:
    cache.put(key(), "gptq", result_in(store))
    assert cache.get(key(**change)) is None


def test_failures_are_not_kept(cache: StageCache) -> None:
    with pytest.raises(ValueError, match="not cached"):
        cache.put(key(), "gptq", StageResult(stage="quantize", failure=Failure(what="x", remedy="y")))


def test_two_entries_under_each_other_s_name_are_both_misses(
    cache: StageCache, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = key(), key(config={"bits": 8})
    cache.put(one, "gptq", result_in(store))
    cache.put(other, "int8", result_in(store, "other"))
    texts = [entry_file(cache, which).read_text() for which in (one, other)]
    entry_file(cache, one).write_text(texts[1])
    entry_file(cache, other).write_text(texts[0])
    with caplog.at_level(logging.WARNING):
        assert cache.get(one) is None
        assert cache.get(other) is None
        assert cache.entries() == []
    assert "is the entry of another key" in caplog.text


@pytest.mark.parametrize("name", ["bits_per_weight", "size_bytes"])
def test_one_changed_digit_is_a_miss(
    cache: StageCache, store: Store, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(key(), "gptq", result_in(store))
    path = entry_file(cache, key())
    fields = json.loads(path.read_text())
    fields["result"]["record"][name] += 1
    path.write_text(json.dumps(fields))
    with caplog.at_level(logging.WARNING):
        assert cache.get(key()) is None
        assert cache.entries() == []
    assert "its checksum is not that of its content" in caplog.text


def test_a_record_that_is_not_the_stage_s_is_a_miss(
    cache: StageCache, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(key(), "gptq", result_in(store))
    path = entry_file(cache, key())
    fields = json.loads(path.read_text())
    fields["result"]["record"]["new_field"] = 1
    del fields["checksum"]
    path.write_text(json.dumps(fields | {"checksum": digest_of(fields)}))
    with caplog.at_level(logging.WARNING):
        assert cache.get(key()) is None
    assert "does not hold what quantize makes" in caplog.text


def test_what_no_reader_would_take_is_not_kept(cache: StageCache, store: Store) -> None:
    with pytest.raises(ValueError, match="Field required"):
        cache.put(key(), "gptq", StageResult(stage="quantize", record={}))
    with pytest.raises(ValueError, match="its record is of sha256:a"):
        record = artifact_record("sha256:a").model_dump(mode="json")
        cache.put(key(), "gptq", StageResult(stage="quantize", record=record, object=object_in(store)))


@pytest.mark.parametrize("damage", ["cut", "a folder", "no text"])
def test_damaged_entry_is_a_miss_and_blocks_no_other(
    cache: StageCache, store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = key(config={"bits": 8})
    cache.put(key(), "gptq", result_in(store))
    cache.put(other, "int8", result_in(store))
    path = entry_file(cache, key())
    if damage == "cut":
        path.write_text(path.read_text()[:-20])
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe" * 100)
    with caplog.at_level(logging.WARNING):
        assert cache.get(key()) is None
    assert str(path) in caplog.text
    assert [entry.key for entry in cache.entries()] == [other]
    cache.forget(key())
    cache.put(key(), "gptq", result_in(store))
    assert cache.get(key()) == result_in(store)


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_a_damaged_object_is_a_miss_until_it_is_made_anew(
    cache: StageCache, store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = result_in(store)
    assert result.object is not None
    cache.put(key(), "gptq", result)
    weights = store.path(result.object.digest) / "weights"
    weights.unlink() if damage == "lost" else weights.write_text("v")
    with caplog.at_level(logging.WARNING):
        assert cache.get(key()) is None
    assert result.object.digest[7:] in caplog.text
    assert weights.parent.exists()  # looking changes nothing
    cache.forget(key())
    assert store.digests() == []
    cache.put(key(), "gptq", result_in(store))
    assert cache.get(key()) == result


def test_forgetting_leaves_a_whole_object(cache: StageCache, store: Store) -> None:
    result = result_in(store)
    assert result.object is not None
    cache.put(key(), "gptq", result)
    cache.forget(key())
    assert cache.get(key()) is None
    assert store.digests() == [result.object.digest]


def test_differences_are_named(cache: StageCache, store: Store) -> None:
    cache.put(key(), "gptq", result_in(store))
    latest = cache.latest_key("quantize", "gptq")
    assert latest is not None
    assert key(config={"bits": 8, "damp": 0.1}).differences(latest) == [
        "config.bits: 4 -> 8",
        "config.damp: None -> 0.1",
    ]
    assert cache.latest_key("quantize", "other") is None


def test_a_damaged_latest_key_is_none(cache: StageCache, store: Store, tmp_path: Path) -> None:
    cache.put(key(), "gptq", result_in(store))
    cache.put(key(config={"bits": 8}), "int8", result_in(store))
    one, other = sorted((tmp_path / "cache" / "quantize" / "latest").iterdir())
    one.write_text(other.read_text())
    other.write_text("{")
    assert cache.latest_key("quantize", "gptq") is None
    assert cache.latest_key("quantize", "int8") is None
