"""Objects at an address that several machines reach: `objects/<hex>/` and `manifests/<hex>.json`, as in a `Store`.

Nothing is worked with there. A machine fetches an object into its own store, which holds every byte against the digest,
and pushes what it made. Files come first and the manifest last, so an object that has one was sent completely; a push
that was cut off goes on where it stopped.
"""

import errno
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from configs.errors import StageError
from registry.explain import explanation_of
from registry.hashing import FileEntry, Manifest
from registry.os_faults import refusal_behind
from registry.shared_address import opened, shared_address
from registry.store import DamagedObject, Store

Progress = Callable[[int, int], None]
"""Is called with the bytes that went over and those of all files, of whatever takes longer than two seconds."""

_FILES_AT_ONCE = 4
_TOLD_EVERY_SECONDS = 2.0
_SPARE_BYTES = 64 << 20
"""Beyond an object's own: for manifests and what others write meanwhile."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FREE_SPACE = "free space there or name a larger place, then run the same command: finished stages are kept"


class DamagedSharedObject(StageError):
    """What lies in a shared store under a digest is incomplete or is something else."""

    def __init__(self, digest: str, place: str, differences: list[str]) -> None:
        super().__init__(
            f"{place} is damaged: {'; '.join(differences)}",
            remedy=f"nothing of it was used: remove {place} and run the recipe again, which sends it anew",
            blame="machine",
        )
        self.digest = digest


class MissingSharedObject(StageError):
    """A shared store does not hold an object."""

    def __init__(self, digest: str, place: str) -> None:
        super().__init__(
            f"{place} is not there",
            remedy="run the recipe again: what is missing is made and sent anew. If it was there before, see who cleans"
            " up there",
            blame="machine",
        )
        self.digest = digest


class SharedStore:
    """The objects at an address. Any number of machines may read and write it at the same time.

    Args:
        address: An absolute folder that every machine mounts, or a bucket with a prefix (`s3://models/quantbench`).

    Raises:
        RequestError: It is no address, holds a password, or leads to nothing here.
    """

    def __init__(self, address: str) -> None:
        self.address = str(shared_address(address))
        self._files = opened(shared_address(address))

    def holds(self, digest: str) -> bool:
        """Whether the object is there with every file in its size; no content is read.

        Raises:
            StageError: The place does not answer.
        """
        with self._explained(f"looking for {digest} in {self.address}"):
            manifest = self._manifest(digest)
            return manifest is not None and not self._unsent(digest, manifest)

    def push(self, store: Store, digest: str, on_progress: Progress | None = None) -> None:
        """Send an object of `store`, or what is missing of it; nothing where all is there.

        Raises:
            DamagedObject: Its bytes are not those of its digest in `store`, now or at the end.
            StageError: The place does not take it; what is there of it is sent no second time.
        """
        try:
            if self.holds(digest):
                return
        except DamagedSharedObject:
            self.discard(digest)
        folder = store.open(digest)
        manifest = store.manifest(digest)
        with self._explained(f"sending {digest} to {self.address}", manifest.size_bytes):
            unsent = self._unsent(digest, manifest)
            _check_room(self.address, self._files.free_bytes(), _bytes_of(unsent))
            _transfer(
                unsent,
                _Meter(on_progress, manifest.size_bytes - _bytes_of(unsent), manifest.size_bytes),
                lambda name, sent: self._files.send(folder / name, f"{_object(digest)}/{name}", sent),
            )
            try:
                store.open(digest)
            except DamagedObject:
                self.discard(digest)
                raise
            if cut := self._unsent(digest, manifest):
                raise DamagedSharedObject(digest, self._place(digest), _incomplete(cut))
            self._files.write(_manifest(digest), manifest.model_dump_json(indent=2).encode())

    def fetch(self, store: Store, digest: str, on_progress: Progress | None = None) -> Path:
        """Have an object in `store`, every byte verified, and return its folder.

        Processes of one machine that want the same one take turns: the first fetches it, the others find it.

        Raises:
            MissingSharedObject: The place does not hold it.
            DamagedSharedObject: The place holds something else under its digest.
            StageError: The place does not answer, or this machine has no room.
        """
        if not store.differences(digest):
            return store.path(digest)
        with store.turn(digest):
            if store.differences(digest):
                self._fetch(store, digest, on_progress)
            return store.path(digest)

    def discard(self, digest: str) -> None:
        """Remove an object, its manifest first; harmless where there is none.

        Raises:
            StageError: The place does not let it be removed.
        """
        with self._explained(f"removing {digest} from {self.address}"):
            self._files.remove(_manifest(digest))
            self._files.remove(_object(digest))

    @contextmanager
    def probe(self) -> Iterator[str]:
        """A token that another machine finds at the same address only if the two share it, for the length of the block.

        Raises:
            StageError: Nothing can be written there.
        """
        token = secrets.token_hex(16)
        name = f"probes/{token}"
        with self._explained(f"writing to {self.address}"):
            self._files.write(name, token.encode())
        try:
            yield token
        finally:
            with self._explained(f"removing from {self.address}"):
                self._files.remove(name)

    def answer(self, token: str) -> None:
        """Prove on another machine that what `probe` wrote can be read here, and that this machine can write.

        Raises:
            StageError: It is another place than the prober's, or one that this machine cannot write to.
        """
        with self._explained(f"reading {self.address}"):
            try:
                found = self._files.read(f"probes/{token}")
            except FileNotFoundError:
                found = b""
        if found != token.encode():
            raise StageError(
                f"{self.address} on this machine is not the one that the run writes to: each has a place of that name",
                remedy="mount the same file system at that path on every node, or name a bucket",
                blame="machine",
            )
        with self._explained(f"writing to {self.address}"):
            mine = f"probes/{secrets.token_hex(16)}"
            self._files.write(mine, b"")
            self._files.remove(mine)

    def _fetch(self, store: Store, digest: str, on_progress: Progress | None) -> None:
        with self._explained(f"looking for {digest} in {self.address}"):
            manifest = self._manifest(digest)
        if manifest is None:
            raise MissingSharedObject(digest, self._place(digest))
        _check_room(f"the disk of {store.path(digest)}", store.free_bytes(), manifest.size_bytes)
        with store.staging() as staging:
            for name in manifest.files:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
            with self._explained(f"fetching {digest} from {self.address}", manifest.size_bytes):
                if absent := self._unsent(digest, manifest):
                    raise DamagedSharedObject(digest, self._place(digest), _incomplete(absent))
                _transfer(
                    manifest.files,
                    _Meter(on_progress, 0, manifest.size_bytes),
                    lambda name, sent: self._files.receive(f"{_object(digest)}/{name}", staging / name, sent),
                )
            try:
                store.put(staging, manifest)
            except DamagedObject as error:
                raise DamagedSharedObject(digest, self._place(digest), error.differences) from error

    def _manifest(self, digest: str) -> Manifest | None:
        """None where there is none. DamagedSharedObject where it is not the digest's."""
        try:
            content = self._files.read(_manifest(digest))
        except FileNotFoundError:
            return None
        try:
            manifest = Manifest.model_validate_json(content)
        except ValueError:
            manifest = None
        if manifest is None or manifest.digest != digest or not all(map(_stays_below, manifest.files)):
            raise DamagedSharedObject(
                digest, f"{self.address}/{_manifest(digest)}", ["it is not the digest's manifest"]
            )
        return manifest

    def _unsent(self, digest: str, manifest: Manifest) -> dict[str, FileEntry]:
        there = self._files.sizes(_object(digest))
        return {name: entry for name, entry in manifest.files.items() if there.get(name) != entry.size_bytes}

    def _place(self, digest: str) -> str:
        return f"{self.address}/{_object(digest)}"

    @contextmanager
    def _explained(self, doing: str, size_bytes: int = 0) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            told = explanation_of(error, doing, Path(self.address))
            refusal = refusal_behind(error)
            if refusal is not None and refusal.number in _FULL:
                told.what += f"; the object has {size_bytes / 2**20:.0f} MiB" if size_bytes else ""
                told.remedy = _FREE_SPACE
            raise told from error


class _Meter:
    """Counts what goes over and tells of it; ends all transfers at the next chunk once one has failed."""

    def __init__(self, on_progress: Progress | None, done: int, total: int) -> None:
        self._on_progress, self._done, self._total = on_progress, done, total
        self._told_at = time.monotonic()
        self._lock = threading.Lock()
        self.stopped = False

    def sent(self, size_bytes: int) -> None:
        with self._lock:
            if self.stopped:
                raise InterruptedError
            self._done += size_bytes
            if self._on_progress and time.monotonic() - self._told_at >= _TOLD_EVERY_SECONDS:
                self._told_at = time.monotonic()
                self._on_progress(self._done, self._total)


def _transfer(files: Mapping[str, FileEntry], meter: _Meter, one: Callable[[str, Callable[[int], None]], None]) -> None:
    """Several files at once. The first failure is raised, when no thread works any more."""
    with ThreadPoolExecutor(_FILES_AT_ONCE, "transfer") as pool:
        work = [pool.submit(one, name, meter.sent) for name in files]
        try:
            for done in as_completed(work):
                done.result()
        except BaseException:
            meter.stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _bytes_of(files: Mapping[str, FileEntry]) -> int:
    return sum(entry.size_bytes for entry in files.values())


def _incomplete(files: Mapping[str, FileEntry]) -> list[str]:
    return [f"{name}: missing or incomplete" for name in sorted(files)]


def _check_room(where: str, free_bytes: int | None, needed_bytes: int) -> None:
    if free_bytes is not None and free_bytes < needed_bytes + _SPARE_BYTES:
        raise StageError(
            f"{where} has {free_bytes / 2**20:.0f} MiB free, and {needed_bytes / 2**20:.0f} MiB are to be written",
            remedy=_FREE_SPACE,
            blame="machine",
        )


def _stays_below(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def _object(digest: str) -> str:
    return f"objects/{digest.removeprefix('sha256:')}"


def _manifest(digest: str) -> str:
    return f"manifests/{digest.removeprefix('sha256:')}.json"
