"""The store keeps what was put, gives out nothing else, and survives being killed."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from configs.errors import RequestError
from registry import verified_files
from registry.hashing import Manifest, entry_of
from registry.store import DamagedObject, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read to their end, as it happens."""
    names: list[str] = []

    def noted(path: Path) -> object:
        names.append(path.name)
        return entry_of(path)

    monkeypatch.setattr(verified_files, "entry_of", noted)
    return names


def put(store: Store, **files: str) -> str:
    with store.staging() as staging:
        for name, text in files.items():
            (staging / name).write_text(text)
        return store.put(staging).digest


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all that was written so far had been written long ago."""
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(verified_files.time, "time_ns", lambda: later)


def flip(path: Path, place: int = 0) -> None:
    """One bit, and the time of modification put back: what a program can hide it does."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_equal_content_has_one_address(store: Store) -> None:
    first, second = put(store, a="1", b="2"), put(store, b="2", a="1")
    assert first == second
    assert put(store, a="1", b="3") != first
    assert store.digests() == sorted({first, put(store, a="1", b="3")})
    assert (store.open(first) / "b").read_text() == "2"


def test_moving_content_between_files_changes_the_address(store: Store) -> None:
    assert put(store, a="1", b="2") != put(store, a="2", b="1")


def test_verify_names_what_differs(store: Store) -> None:
    digest = put(store, a="1", b="2", c="3")
    assert store.verify(digest) == []
    root = store.path(digest)
    (root / "a").write_text("9")
    (root / "b").unlink()
    (root / "d").write_text("4")
    assert store.verify(digest) == store.differences(digest) == ["a: changed", "b: missing", "d: added"]


def test_completeness_sees_truncation(store: Store) -> None:
    digest = put(store, a="123")
    assert store.is_complete(digest)
    (store.path(digest) / "a").write_text("12")
    assert not store.is_complete(digest)


def test_nothing_damaged_is_given_out(store: Store) -> None:
    digest = put(store, a="123")
    flip(store.path(digest) / "a")
    with pytest.raises(DamagedObject, match="a: changed") as caught:
        store.open(digest)
    assert caught.value.digest == digest
    assert "run the recipe again" in caught.value.remedy


def test_a_pass_is_paid_once(store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put(store, a="123", b="4")
    read.clear()
    settle(monkeypatch)
    store.open(digest)
    assert read == ["a", "b"]
    store.open(digest)
    Store(store.path(digest).parent.parent).open(digest)
    assert read == ["a", "b"]
    assert store.verify(digest) == []
    assert read == ["a", "b", "a", "b"]


def test_what_was_put_long_after_it_was_written_is_not_read_again(
    store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    digest = put(store, a="123")
    store.open(digest)
    assert read == ["a"]


def test_a_file_that_was_changed_just_now_is_not_trusted(store: Store, read: list[str]) -> None:
    # It may be changed again within the same tick of the file system's clock.
    digest = put(store, a="123")
    store.open(digest)
    store.open(digest)
    assert read == ["a", "a", "a"]


@pytest.mark.parametrize("kind", ["flipped", "swapped", "replaced", "copied"])
def test_change_is_noticed_although_the_object_was_verified_before(
    store: Store, tmp_path: Path, kind: str, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    digest = put(store, a="123", b="456")
    store.open(digest)
    root = store.path(digest)
    if kind == "flipped":
        flip(root / "a")
    elif kind == "swapped":
        (root / "a").rename(root / "c")
        (root / "b").rename(root / "a")
        (root / "c").rename(root / "b")
    elif kind == "replaced":
        shutil.copy2(root / "a", root / "c")
        flip(root / "c")
        (root / "c").rename(root / "a")
    else:
        shutil.copytree(tmp_path / "store", tmp_path / "other")
        store = Store(tmp_path / "other")
        read.clear()
        assert store.differences(digest) == []
        assert read == ["a", "b"]
        flip(store.path(digest) / "a")
    with pytest.raises(DamagedObject):
        store.open(digest)


def test_objects_under_each_other_s_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    one, other = put(store, a="1"), put(store, a="2")
    store.open(one)
    store.open(other)
    for folder in ("objects", "verified"):
        parent = store.path(one).parent.parent / folder
        names = [next(parent.glob(f"{digest[7:]}*")) for digest in (one, other)]
        names[0].rename(parent / "x")
        names[1].rename(names[0])
        (parent / "x").rename(names[1])
    for digest in (one, other):
        assert store.differences(digest) == ["a: changed"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": ["sha256:0", 1, 2, 3, 4]}', '{"a": []}', "\x00"])
def test_a_damaged_memory_is_forgotten(
    store: Store, text: str, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    digest = put(store, a="123")
    memory = store.path(digest).parent.parent / "verified" / f"{digest[7:]}.json"
    memory.write_text(text)
    read.clear()
    assert store.differences(digest) == []
    assert read == ["a"]


def test_a_damaged_memory_condemns_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    digest = put(store, a="123")
    memory = store.path(digest).parent.parent / "verified" / f"{digest[7:]}.json"
    memory.write_text(memory.read_text().replace('["sha256:a', '["sha256:b'))
    assert store.differences(digest) == []


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_putting_again_mends_a_damaged_object(store: Store, damage: str) -> None:
    digest = put(store, a="123")
    path = store.path(digest) / "a"
    path.unlink() if damage == "lost" else flip(path)
    assert put(store, a="123") == digest
    assert store.verify(digest) == []


@pytest.mark.parametrize("damage", ["lost", "cut", "of another"])
def test_the_bytes_prove_themselves_where_the_manifest_is_gone(store: Store, tmp_path: Path, damage: str) -> None:
    digest, other = put(store, a="1"), put(store, a="2")
    manifest, others = (tmp_path / "store" / "manifests" / f"{name[7:]}.json" for name in (digest, other))
    if damage == "lost":
        manifest.unlink()
    else:
        manifest.write_text("{" if damage == "cut" else others.read_text())
    assert digest in store.digests()
    (store.open(digest) / "a").read_text()
    assert Manifest.model_validate_json(manifest.read_text()).digest == digest
    manifest.unlink()
    flip(store.path(digest) / "a")
    assert store.verify(digest) == ["the manifest is missing or damaged, and the files are not those of the digest"]


def test_an_object_has_its_manifest_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Store, manifest: Manifest) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            put(store, a="1")
    (digest,) = store.digests()
    assert put(store, a="1") == digest
    assert store.is_complete(digest)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_what_is_no_file_is_damage(store: Store, kind: str) -> None:
    digest = put(store, a="1", b="2")
    path = store.path(digest) / "a"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    assert store.differences(digest) == ["a: missing" if kind == "folder" else "a: no file"]
    assert put(store, a="1", b="2") == digest
    assert store.verify(digest) == []


def test_what_is_no_file_is_not_put(store: Store) -> None:
    with store.staging() as staging:
        (staging / "a").write_text("1")
        os.mkfifo(staging / "socket")
        (staging / "link").symlink_to("nowhere")
        digest = store.put(staging).digest
    assert store.verify(digest) == []
    assert digest == put(store, a="1")


@pytest.mark.parametrize("folder", ["manifests", "verified", "objects"])
def test_a_name_that_something_else_has(store: Store, folder: str) -> None:
    digest = put(store, a="1")
    path = store.path(digest).parent.parent / folder / (digest[7:] + ("" if folder == "objects" else ".json"))
    if folder == "objects":
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    assert put(store, a="1") == digest
    assert (store.open(digest) / "a").read_text() == "1"
    store.discard(digest)
    assert not store.path(digest).exists()


def test_want_of_memory_condemns_no_object(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put(store, a="1")

    def refused(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(verified_files, "entry_of", refused)
    with pytest.raises(OSError, match="Too many open files"):
        store.open(digest)


def test_discard_leaves_nothing(store: Store, tmp_path: Path) -> None:
    digest = put(store, a="1")
    store.discard(digest)
    store.discard(digest)
    assert store.digests() == []
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == ["in-use.lock"]


def test_a_store_that_cannot_be_written_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put(store, a="1")
    (store.path(digest).parent.parent / "manifests" / f"{digest[7:]}.json").unlink()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "it is read-only")

    monkeypatch.setattr("registry.files._open_new", refused)
    settle(monkeypatch)
    assert (store.open(digest) / "a").read_text() == "1"


def test_around(store: Store, tmp_path: Path) -> None:
    digest = put(store, a="1")
    found = Store.around(store.path(digest))
    assert found is not None
    assert found[1] == digest
    assert found[0].open(digest) == store.path(digest)
    assert Store.around(tmp_path) is None
    assert Store.around(tmp_path / "objects" / ("0" * 64)) is None


def test_resolve(store: Store) -> None:
    digest = put(store, a="1")
    assert store.resolve(digest[7:15]) == digest
    assert store.resolve(digest) == digest
    with pytest.raises(RequestError, match="no object"):
        store.resolve("zz")
    put(store, a="2")
    with pytest.raises(RequestError, match="2 objects"):
        store.resolve("")
