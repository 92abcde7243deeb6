"""A result is found under an equal key only; damage is a miss with a warning."""

import logging
from pathlib import Path

import pytest

from registry.contracts import Failure, ObjectRef, StageResult
from registry.stage_cache import StageCache, StageKey
from registry.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path, store: Store) -> StageCache:
    return StageCache(tmp_path / "cache", store)


def key(**changes: object) -> StageKey:
    fields = {
        "stage": "quantize",
        "stage_version": 1,
        "config": {"bits": 4},
        "inputs": {"checkpoint": "sha256:a"},
        "libraries": {"torch": "1"},
    }
    return StageKey.model_validate(fields | changes)


def object_in(store: Store) -> ObjectRef:
    staging = store.new_staging_dir()
    (staging / "weights").write_text("w")
    return store.put(staging)


def test_found_again(cache: StageCache, store: Store) -> None:
    result = StageResult(stage="quantize", record={"a": 1}, object=object_in(store))
    cache.put(key(), "gptq", result)
    assert cache.get(key()) == result


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
def test_any_difference_is_another_key(cache: StageCache, change: dict[str, object]) -> None:
    cache.put(key(), "gptq", StageResult(stage="quantize", record={}))
    assert cache.get(key(**change)) is None


def test_failures_are_not_kept(cache: StageCache) -> None:
    with pytest.raises(ValueError, match="not cached"):
        cache.put(key(), "gptq", StageResult(stage="quantize", failure=Failure(what="x", remedy="y")))


def test_damaged_entry_is_a_miss(cache: StageCache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.put(key(), "gptq", StageResult(stage="quantize", record={}))
    path = next((tmp_path / "cache" / "quantize").glob("*.json"))
    path.write_text(path.read_text()[:-20])
    with caplog.at_level(logging.WARNING):
        assert cache.get(key()) is None
    assert "damaged" in caplog.text


def test_lost_object_is_a_miss(cache: StageCache, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    reference = object_in(store)
    cache.put(key(), "gptq", StageResult(stage="quantize", record={}, object=reference))
    (store.path(reference.digest) / "weights").unlink()
    with caplog.at_level(logging.WARNING):
        assert cache.get(key()) is None
    assert reference.digest in caplog.text


def test_differences_are_named(cache: StageCache) -> None:
    cache.put(key(), "gptq", StageResult(stage="quantize", record={}))
    latest = cache.latest_key("quantize", "gptq")
    assert latest is not None
    assert key(config={"bits": 8, "damp": 0.1}).differences(latest) == [
        "config.bits: 4 -> 8",
        "config.damp: None -> 0.1",
    ]
    assert cache.latest_key("quantize", "other") is None
