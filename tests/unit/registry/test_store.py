"""The store keeps what was put, notices what was changed, and survives being killed."""

from pathlib import Path

import pytest

from configs.errors import RequestError
from registry.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, **files: str) -> str:
    staging = store.new_staging_dir()
    for name, text in files.items():
        (staging / name).write_text(text)
    return store.put(staging).digest


def test_equal_content_has_one_address(store: Store) -> None:
    first, second = put(store, a="1", b="2"), put(store, b="2", a="1")
    assert first == second
    assert put(store, a="1", b="3") != first
    assert store.digests() == sorted({first, put(store, a="1", b="3")})
    assert (store.path(first) / "b").read_text() == "2"


def test_moving_content_between_files_changes_the_address(store: Store) -> None:
    assert put(store, a="1", b="2") != put(store, a="2", b="1")


def test_verify_names_what_differs(store: Store) -> None:
    digest = put(store, a="1", b="2", c="3")
    assert store.verify(digest) == []
    root = store.path(digest)
    (root / "a").write_text("9")
    (root / "b").unlink()
    (root / "d").write_text("4")
    assert store.verify(digest) == ["a: changed", "b: missing", "d: added"]


def test_completeness_sees_truncation(store: Store) -> None:
    digest = put(store, a="123")
    assert store.is_complete(digest)
    (store.path(digest) / "a").write_text("12")
    assert not store.is_complete(digest)


def test_putting_again_mends_a_damaged_object(store: Store) -> None:
    digest = put(store, a="123")
    (store.path(digest) / "a").unlink()
    assert put(store, a="123") == digest
    assert store.verify(digest) == []


def test_a_damaged_manifest_is_no_object(store: Store, tmp_path: Path) -> None:
    digest = put(store, a="1")
    manifest = next((tmp_path / "store" / "manifests").iterdir())
    manifest.write_text("{")
    assert not store.is_complete(digest)
    assert store.verify(digest) == ["the manifest is missing or unreadable"]


def test_resolve(store: Store) -> None:
    digest = put(store, a="1")
    assert store.resolve(digest[7:15]) == digest
    assert store.resolve(digest) == digest
    with pytest.raises(RequestError, match="no object"):
        store.resolve("zz")
    put(store, a="2")
    with pytest.raises(RequestError, match="2 objects"):
        store.resolve("")


def test_staging_of_dead_processes_is_swept(store: Store, tmp_path: Path) -> None:
    mine = store.new_staging_dir()
    dead = tmp_path / "store" / "staging" / "4194305-abc"  # above the kernel's largest process id
    dead.mkdir()
    store.remove_stale_staging()
    assert mine.exists()
    assert not dead.exists()
