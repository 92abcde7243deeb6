"""A shared store gives out what was pushed, whole, or says what is wrong and where."""

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from configs.errors import RequestError, StageError
from registry import shared_bucket, shared_files, shared_store
from registry.shared_address import shared_address
from registry.shared_bucket import SharedBucket
from registry.shared_files import SharedFolder
from registry.shared_store import DamagedSharedObject, MissingSharedObject, SharedStore
from registry.store import DamagedObject, Store
from tests.full_disk import full_disk


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def shared(place: Path) -> SharedStore:
    return SharedStore(str(place))


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Store:
    return Store(tmp_path / "there")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are sent, as it happens."""
    names: list[str] = []
    plainly = SharedFolder.send

    def noted(self: SharedFolder, source: Path, name: str, told: shared_files.Sent) -> None:
        names.append(name.partition("/")[2].partition("/")[2])
        plainly(self, source, name, told)

    monkeypatch.setattr(SharedFolder, "send", noted)
    return names


def put(store: Store, files: dict[str, str]) -> str:
    with store.staging() as staging:
        for name, text in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(text)
        return store.put(staging).digest


MODEL = {"config.json": "{}", "model-1.safetensors": "one" * 100, "original/model-2.safetensors": "two" * 100}


def left_of(place: Path) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def hex_of(digest: str) -> str:
    return digest.removeprefix("sha256:")


def test_what_one_machine_pushes_another_one_has(shared: SharedStore, here: Store, there: Store) -> None:
    digest = put(here, MODEL)
    assert not shared.holds(digest)
    shared.push(here, digest)
    assert shared.holds(digest)
    folder = shared.fetch(there, digest)
    assert folder == there.path(digest)
    assert there.verify(digest) == []
    assert {name: (folder / name).read_text() for name in MODEL} == MODEL


def test_a_second_push_and_a_second_fetch_move_nothing(
    shared: SharedStore, here: Store, there: Store, place: Path, sent: list[str]
) -> None:
    digest = put(here, MODEL)
    shared.push(here, digest)
    shared.fetch(there, digest)
    assert sorted(sent) == sorted(MODEL)
    shared.push(there, digest)
    assert sorted(sent) == sorted(MODEL)
    shutil.rmtree(place / "objects")
    assert shared.fetch(there, digest) == there.path(digest)


def test_a_push_that_was_cut_off_goes_on(
    shared: SharedStore, here: Store, there: Store, place: Path, sent: list[str]
) -> None:
    digest = put(here, MODEL)
    shared.push(here, digest)
    (place / "manifests" / f"{hex_of(digest)}.json").unlink()
    cut = place / "objects" / hex_of(digest) / "model-1.safetensors"
    cut.write_text("on")
    sent.clear()
    with pytest.raises(MissingSharedObject):
        shared.fetch(there, digest)
    shared.push(here, digest)
    assert sent == ["model-1.safetensors"]
    shared.fetch(there, digest)


@pytest.mark.parametrize("room", range(10))
def test_a_place_that_is_full_shows_nothing_half(room: int, here: Store, there: Store, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    shared = SharedStore(str(place))
    digest = put(here, MODEL)
    with full_disk(place, room) as disk:
        try:
            shared.push(here, digest)
            return
        except StageError as error:
            assert str(place) in error.what
            assert "no room" in error.what
            assert "name a larger place" in error.remedy
    assert disk.writes > room
    assert not shared.holds(digest)
    assert not list((place / "incoming").glob("*"))
    for path in (place / "objects").rglob("*.*"):
        assert path.read_text() == MODEL[path.relative_to(place / "objects" / hex_of(digest)).as_posix()]
    shared.push(here, digest)
    shared.fetch(there, digest)


def test_a_disk_that_is_too_small_is_told_before_with_bytes(
    shared: SharedStore, here: Store, there: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(here, MODEL)
    monkeypatch.setattr(SharedFolder, "free_bytes", lambda self: 3 << 20)
    with pytest.raises(StageError, match=r"shared has 3 MiB free, and 0 MiB are to be written") as refused:
        shared.push(here, digest)
    assert "free space" in refused.value.remedy
    assert left_of(place) == []
    monkeypatch.undo()
    shared.push(here, digest)
    monkeypatch.setattr(Store, "free_bytes", lambda self: 3 << 20)
    with pytest.raises(StageError, match=r"there/objects/\w+ has 3 MiB free"):
        shared.fetch(there, digest)


def test_a_full_disk_amid_a_fetch_leaves_nothing(
    shared: SharedStore, here: Store, there: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(here, {"model.safetensors": "x" * (2 << 20)})
    shared.push(here, digest)

    def full(source: Path, target: object, told: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "there"))

    monkeypatch.setattr(shared_files, "_copy", full)
    with pytest.raises(StageError, match=r"there, .* free .*; the object has 2 MiB"):
        shared.fetch(there, digest)
    assert left_of(tmp_path / "there") in ([], ["in-use.lock"])


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_what_is_damaged_there_is_never_used(
    damage: str, shared: SharedStore, here: Store, there: Store, place: Path, tmp_path: Path
) -> None:
    digest = put(here, MODEL)
    shared.push(here, digest)
    file = place / "objects" / hex_of(digest) / "model-1.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        file.write_text("eno" * 100 if damage == "changed" else "one")
    with pytest.raises(DamagedSharedObject) as refused:
        shared.fetch(there, digest)
    assert str(place / "objects" / hex_of(digest)) in refused.value.what
    assert "model-1.safetensors" in refused.value.what
    assert refused.value.digest == digest
    assert there.digests() == []
    assert list((tmp_path / "there" / "staging").glob("*")) == []
    shared.discard(digest)
    shared.push(here, digest)
    shared.fetch(there, digest)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {}}'])
def test_a_damaged_manifest_is_refused_and_pushed_anew(
    text: str, shared: SharedStore, here: Store, there: Store, place: Path
) -> None:
    digest = put(here, MODEL)
    shared.push(here, digest)
    manifest = place / "manifests" / f"{hex_of(digest)}.json"
    manifest.write_text(text)
    with pytest.raises(DamagedSharedObject, match=str(manifest)):
        shared.fetch(there, digest)
    shared.push(here, digest)
    shared.fetch(there, digest)


def test_an_object_that_changes_while_it_is_sent_is_not_sent(
    shared: SharedStore, here: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(here, MODEL)
    plainly = SharedFolder.send

    def changing(self: SharedFolder, source: Path, name: str, told: shared_files.Sent) -> None:
        source.write_text(source.read_text().upper() + " ")
        plainly(self, source, name, told)

    monkeypatch.setattr(SharedFolder, "send", changing)
    with pytest.raises(DamagedObject, match="here/objects"):
        shared.push(here, digest)
    assert left_of(place) == []


def test_what_is_not_there_is_named(shared: SharedStore, there: Store, place: Path) -> None:
    digest = "sha256:" + "0" * 64
    with pytest.raises(MissingSharedObject, match=f"{place}/objects/{'0' * 64} is not there"):
        shared.fetch(there, digest)
    shared.discard(digest)


def test_what_is_damaged_here_is_fetched_anew(shared: SharedStore, here: Store, there: Store) -> None:
    digest = put(here, MODEL)
    shared.push(here, digest)
    folder = shared.fetch(there, digest)
    (folder / "config.json").write_text("[]")
    assert (shared.fetch(there, digest) / "config.json").read_text() == "{}"


def at_the_same_time(work: Callable[..., None], place: Path, roots: list[Path], digest: str) -> list[int | None]:
    """Exit codes of processes that begin `work` together, one a root."""
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=work, args=(place, root, digest, start)) for root in roots]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def _fetch(place: Path, root: Path, digest: str, start: "multiprocessing.synchronize.Event") -> None:
    start.wait(60)
    SharedStore(str(place)).fetch(Store(root), digest)


def test_processes_that_want_the_same_object_take_turns(
    shared: SharedStore, here: Store, place: Path, tmp_path: Path
) -> None:
    digest = put(here, MODEL)
    shared.push(here, digest)
    assert at_the_same_time(_fetch, place, [tmp_path / "node"] * 4, digest) == [0] * 4
    assert Store(tmp_path / "node").verify(digest) == []
    assert not list((tmp_path / "node" / "fetching").glob("*"))
    assert not list((tmp_path / "node" / "objects").glob(".*"))


def _push(place: Path, root: Path, digest: str, start: "multiprocessing.synchronize.Event") -> None:
    start.wait(60)
    SharedStore(str(place)).push(Store(root), digest)


def test_several_machines_may_push_the_same_object(shared: SharedStore, place: Path, tmp_path: Path) -> None:
    roots = [tmp_path / f"node{number}" for number in range(3)]
    digests = {put(Store(root), MODEL) for root in roots}
    (digest,) = digests
    assert at_the_same_time(_push, place, roots, digest) == [0] * 3
    assert not list((place / "incoming").glob("*"))
    shared.fetch(Store(tmp_path / "reader"), digest)


def test_leftovers_of_a_killed_writer_go_after_a_day(shared: SharedStore, here: Store, place: Path) -> None:
    incoming = place / "incoming"
    incoming.mkdir()
    for name, hours in (("old", 25), ("new", 1)):
        (incoming / name).write_text("half")
        then = (incoming / name).stat().st_mtime - hours * 3600
        os.utime(incoming / name, (then, then))
    shared.push(here, put(here, MODEL))
    assert [path.name for path in incoming.iterdir()] == ["new"]


def test_progress_is_told_of_what_takes_long(
    shared: SharedStore, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(here, MODEL)
    total = here.manifest(digest).size_bytes
    told: list[tuple[int, int]] = []
    shared.push(here, digest, lambda done, whole: told.append((done, whole)))
    assert told == []
    monkeypatch.setattr(shared_store, "_TOLD_EVERY_SECONDS", 0.0)
    shared.fetch(there, digest, lambda done, whole: told.append((done, whole)))
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_first_failure_ends_all_transfers(
    shared: SharedStore, here: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(here, {f"model-{number}.safetensors": str(number) * 100 for number in range(50)})
    tried: list[str] = []

    def refused(self: SharedFolder, source: Path, name: str, told: shared_files.Sent) -> None:
        tried.append(name)
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(place / name))

    monkeypatch.setattr(SharedFolder, "send", refused)
    with pytest.raises(StageError, match="gives errors"):
        shared.push(here, digest)
    assert len(tried) < 50


def test_a_probe_tells_one_place_from_two_of_the_same_name(shared: SharedStore, place: Path, tmp_path: Path) -> None:
    with shared.probe() as token:
        SharedStore(f"file://{place}").answer(token)
        (tmp_path / "other").mkdir()
        with pytest.raises(StageError, match="other on this machine is not the one that the run writes to"):
            SharedStore(str(tmp_path / "other")).answer(token)
    assert left_of(place) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes wherever it wants")
def test_a_place_that_is_read_only_is_told_by_the_probe(shared: SharedStore, place: Path) -> None:
    with shared.probe() as token:
        for folder in (place / "incoming", place / "probes", place):
            folder.chmod(0o555)
        try:
            with pytest.raises(StageError, match="no right"):
                shared.answer(token)
        finally:
            for folder in (place, place / "incoming", place / "probes"):
                folder.chmod(0o755)


def test_a_read_only_file_system_is_told(shared: SharedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: SharedFolder, name: str, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    with shared.probe() as token:
        monkeypatch.setattr(SharedFolder, "write", refused)
        with pytest.raises(StageError, match="mounted read-only"):
            shared.answer(token)


def test_a_folder_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no folder on this node"):
        SharedStore(str(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shared",
        "./shared",
        "~/shared",
        "/",
        "file://node1/shared",
        "s3://",
        "simplecache::s3://models/x",
        "s3://models/*",
        "https://host/x",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"shared store|names no one folder or bucket"):
        shared_address(text)


@pytest.mark.parametrize(
    "text", ["s3://AKIA:hunter2@models/x", "sftp://me:hunter2@host/x", "az://models/x?sig=hunter2", "s3://m/x#hunter2"]
)
def test_an_address_with_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        shared_address(text)
    assert "hunter2" not in str(refused.value)


def test_a_bucket_whose_package_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(shared_bucket, "get_filesystem_class", absent)
    with pytest.raises(RequestError, match="s3:// needs a package that is not installed here") as refused:
        SharedStore("s3://models/quantbench")
    assert "pip install 'quantbench[s3]'" in refused.value.remedy


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SharedStore:
    """fsspec's own store in memory, for what is the same with every object store."""
    files = MemoryFileSystem(skip_instance_cache=True)
    monkeypatch.setattr(shared_store, "opened", lambda address: SharedBucket(files, "s3", address.path))
    return SharedStore(f"s3://{tmp_path.name}/quantbench")


def test_a_bucket_holds_what_a_folder_does(bucket: SharedStore, here: Store, there: Store) -> None:
    digest = put(here, MODEL)
    bucket.push(here, digest)
    bucket.fetch(there, digest)
    assert there.verify(digest) == []
    bucket.discard(digest)
    assert not bucket.holds(digest)
    with bucket.probe() as token:
        bucket.answer(token)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError("Access Denied"), r"refuses this machine \(PermissionError: Access Denied\)"),
        (OSError(errno.EIO, "XMinioStorageFull: no room"), r"does not answer as it should .*XMinioStorageFull"),
        (TimeoutError(), "does not answer as it should"),
        (OSError(errno.ENOSPC, "No space left on device"), r"no room on the disk .*the object has 0 MiB"),
        (FileNotFoundError("models/x"), "models/x is gone"),
    ],
)
def test_what_a_bucket_answers_is_told_apart_from_this_disk(
    error: OSError, told: str, bucket: SharedStore, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(here, MODEL)
    bucket.push(here, digest)

    def refused(self: MemoryFileSystem, *arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(MemoryFileSystem, "get_file", refused)
    with pytest.raises(StageError, match=told):
        bucket.fetch(there, digest)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/mnt/shared/", "/mnt/shared"),
        ("file:///mnt/shared", "/mnt/shared"),
        ("s3://models/quantbench/", "s3://models/quantbench"),
    ],
)
def test_an_address_is_told_in_one_way(text: str, meant: str) -> None:
    assert str(shared_address(text)) == meant
