"""Bytes are shared where neither file can harm the other unseen, and copied else."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.shared_bytes import share, would_share
from registry.store import DamagedObject, Store

CONTENT = b"weights" * 1000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target" / "model.safetensors"


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on ext4, whatever this disk is."""

    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refused)


@pytest.mark.usefixtures("no_clones")
def test_what_may_be_written_into_is_copied(source: Path, target: Path) -> None:
    assert not would_share(source, target.parent)
    assert share(source, target) == "copied"
    source.write_bytes(b"other")
    assert target.read_bytes() == CONTENT


@pytest.mark.usefixtures("no_clones")
def test_what_nobody_may_write_into_is_linked(source: Path, target: Path) -> None:
    source.chmod(0o444)
    assert would_share(source, target.parent)
    assert share(source, target) == "linked"
    assert target.stat().st_ino == source.stat().st_ino
    # Replaced as a whole, as downloads are, the source is another file.
    source.unlink()
    source.write_bytes(b"other")
    assert target.read_bytes() == CONTENT


@pytest.mark.usefixtures("no_clones")
def test_a_file_of_the_hub_s_cache_is_linked_and_not_the_link_to_it(tmp_path: Path, target: Path) -> None:
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    blob.write_bytes(CONTENT)
    name = tmp_path / "model.safetensors"
    name.symlink_to(blob)
    assert would_share(name, target.parent)
    assert share(name, target) == "linked"
    assert not target.is_symlink()
    assert target.stat().st_ino == blob.stat().st_ino


@pytest.mark.usefixtures("no_clones")
def test_a_link_of_the_user_s_own_is_no_promise(tmp_path: Path, source: Path, target: Path) -> None:
    name = tmp_path / "model.safetensors"
    name.symlink_to(source)
    assert share(name, target) == "copied"


@pytest.mark.usefixtures("no_clones")
def test_another_disk_takes_a_copy(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.chmod(0o444)

    def crossing(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", crossing)
    assert share(source, target) == "copied"
    assert target.read_bytes() == CONTENT


def test_a_real_other_disk_takes_a_copy(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - another disk
    if memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system here")
    source = memory / f"quantbench-{os.getpid()}"
    source.write_bytes(CONTENT)
    source.chmod(0o444)
    try:
        assert not would_share(source, tmp_path)
        assert share(source, tmp_path / "copy") == "copied"
    finally:
        source.unlink()


def test_a_file_that_is_there_is_not_written_over(source: Path, target: Path) -> None:
    target.write_text("mine")
    with pytest.raises(FileExistsError):
        share(source, target)
    assert target.read_text() == "mine"


@pytest.mark.usefixtures("no_clones")
def test_an_object_that_was_written_into_through_its_source_is_not_given_out(source: Path, tmp_path: Path) -> None:
    source.chmod(0o444)
    store = Store(tmp_path / "store")
    with store.staging() as staging:
        assert share(source, staging / source.name) == "linked"
        digest = store.put(staging).digest
    store.open(digest)
    source.chmod(0o644)
    times = source.stat()
    with source.open("r+b") as file:
        file.write(b"W")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DamagedObject, match="changed"):
        store.open(digest)
    # Its discarding leaves the user's file alone.
    store.discard(digest)
    assert source.stat().st_size == len(CONTENT)


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A small disk that knows clones."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    try:
        for command in (["mkfs.xfs", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
            subprocess.run(command, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no XFS can be mounted here: {error}")
    try:
        yield place
    finally:
        command = ["umount", str(place)]
        subprocess.run(command, check=True)


@pytest.mark.service
def test_a_real_clone_shares_blocks_and_no_fate(xfs: Path) -> None:
    source, target = xfs / "source", xfs / "target"
    content = os.urandom(64 << 20)
    source.write_bytes(content)
    os.sync()
    before = os.statvfs(xfs)
    assert would_share(source, xfs)
    assert share(source, target) == "cloned"
    os.sync()
    after = os.statvfs(xfs)
    assert (before.f_bfree - after.f_bfree) * before.f_frsize < 1 << 20
    with source.open("r+b") as file:
        file.write(b"other")
    assert target.read_bytes() == content
