"""Content-addressed directories: `objects/<hex>/` holds files as they are, `manifests/<hex>.json` what they must be.
`signatures/<hex>.sig`, where somebody signed the object, is no part of it (`registry/signing.py`).

An object's directory is a model directory as transformers and vLLM know it, so it is served from where it lies. Whoever
reads one opens it here: what is read is what its digest says, or nothing is. And whoever looks whether an object is
whole uses it from then on, as long as he has the store: what is in use is not collected.
"""

import errno
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from configs.errors import RequestError, StageError
from registry.contracts import ObjectRef
from registry.files import fsync, fsync_tree, write_text_atomically
from registry.hashing import Manifest, differing, strangers_below
from registry.in_use import InUse
from registry.lone_lock import lone_lock
from registry.owned_folders import abandoned_below, owned_folder, sweep_abandoned
from registry.verified_files import Known, look_at, read_known, write_known

_HEX = re.compile(r"[0-9a-f]{64}")
_WITHDRAWN = "gone"
_REFUSED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Of reading: no word about the file."""
_PUT_ATTEMPTS = 10
"""Each but the last failed because another process put the same object a moment before."""


class DamagedObject(StageError):
    """An object's files are not those of its digest."""

    def __init__(self, digest: str, place: Path, differences: list[str]) -> None:
        super().__init__(
            f"{place} is damaged: {'; '.join(differences)}",
            remedy="run the recipe again: what is damaged is made anew. If it happens again, check the disk (dmesg)",
        )
        self.digest = digest
        self.differences = differences


class Store:
    """Objects of one workspace. Several processes may use one store at once: files come and go by renames."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._manifests = root / "manifests"
        self._verified = root / "verified"
        self._signatures = root / "signatures"
        self._staging = root / "staging"
        self._fetching = root / "fetching"
        self.in_use = InUse(root / "in-use.lock")
        """By digest."""

    @classmethod
    def around(cls, path: Path) -> tuple["Store", str] | None:
        """The store that `path` is an object of, and its digest; None where it is none."""
        resolved = path.resolve()
        store = cls(resolved.parent.parent)
        if resolved.parent != store._objects or not _HEX.fullmatch(resolved.name) or not store._manifests.is_dir():
            return None
        return store, f"sha256:{resolved.name}"

    def staging(self) -> AbstractContextManager[Path]:
        """An empty directory on the store's own file system, so that `put` needs no copy; gone after the block."""
        return owned_folder(self._staging)

    def put(self, staging_dir: Path, promised: Manifest | None = None) -> ObjectRef:
        """Move `staging_dir` into the store and return its address.

        An object that is there already stays if its bytes are whole, and is replaced if they are not. The manifest
        comes last: an object that has one was written completely.

        Args:
            promised: What the folder has to hold, where that is known.

        Raises:
            DamagedObject: It does not, and stays where it is.
        """
        for stranger in strangers_below(staging_dir):
            stranger.unlink()  # such as an engine's socket: nothing that could be kept
        fsync_tree(staging_dir)
        manifest, known = look_at(staging_dir, {})
        if promised is not None and manifest.digest != promised.digest:
            raise DamagedObject(promised.digest, staging_dir, differing(promised.files, manifest.files))
        self._objects.mkdir(parents=True, exist_ok=True)
        self.in_use.hold(manifest.digest)
        target = self.path(manifest.digest)
        for attempt in range(_PUT_ATTEMPTS):
            try:
                # rename(2) replaces an empty directory only, so of two writers one wins and the other finds it there.
                staging_dir.rename(target)
            except OSError:
                if not target.exists() or attempt == _PUT_ATTEMPTS - 1:
                    raise
                if not self.differences(manifest.digest):
                    break
                self.discard(manifest.digest)
            else:
                fsync(self._objects)
                self._write_manifest(manifest)
                write_known(self._verified_path(manifest.digest), known)
                break
        return ObjectRef(digest=manifest.digest, size_bytes=manifest.size_bytes)

    @contextmanager
    def turn(self, digest: str) -> Iterator[None]:
        """Be the only one of this machine's processes that makes or fetches an object, for the length of the block.

        Where files cannot be locked, several do: each `put` leaves the object whole.
        """
        self._fetching.mkdir(parents=True, exist_ok=True)
        with lone_lock(self._fetching / digest.removeprefix("sha256:")):
            yield

    def free_bytes(self) -> int:
        """On the store's disk."""
        self._staging.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._staging).free

    def open(self, digest: str) -> Path:
        """The object's directory, its bytes verified; they are read only where they may have changed since they were.

        Raises:
            DamagedObject: They are not those of the digest, or there is no such object.
        """
        differences = self.differences(digest)
        if differences:
            raise DamagedObject(digest, self.path(digest), differences)
        return self.path(digest)

    def path(self, digest: str) -> Path:
        """Where the object's files lie (or would lie): for naming the place. `open` is for reading."""
        return self._objects / digest.removeprefix("sha256:")

    def digests(self) -> list[str]:
        """Every object that is or should be there."""
        names = {path.stem for path in self._manifests.glob("*.json")} | {path.name for path in self._objects.glob("*")}
        return sorted(f"sha256:{name}" for name in names if _HEX.fullmatch(name))

    def resolve(self, prefix: str) -> str:
        """The one digest that begins with `prefix` (with or without `sha256:`).

        Raises:
            RequestError: When none or several do.
        """
        found = [
            digest
            for digest in self.digests()
            if digest.removeprefix("sha256:").startswith(prefix.removeprefix("sha256:"))
        ]
        if len(found) == 1:
            return found[0]
        what = "no object" if not found else f"{len(found)} objects"
        raise RequestError(f"{what} in the store with digest {prefix}", remedy="see `quantbench artifacts list`")

    def is_complete(self, digest: str) -> bool:
        """Whether every file is there with its size; quick, reads no content: for lists."""
        manifest = self._manifest(digest)
        if manifest is None:
            return False
        root = self.path(digest)
        return all(
            (root / name).is_file() and (root / name).stat().st_size == entry.size_bytes
            for name, entry in manifest.files.items()
        )

    def differences(self, digest: str) -> list[str]:
        """What differs from what the digest says, one sentence a file; empty when all is well.

        Files that were found whole are read again only where the kernel says that they may have changed.
        """
        known = read_known(self._verified_path(digest))
        # What is remembered may be damaged too: it can acquit a file, and not condemn it.
        return self._differences(digest, known) and self._differences(digest, {})

    def verify(self, digest: str) -> list[str]:
        """As `differences`, but every byte is read."""
        return self._differences(digest, {})

    def discard(self, digest: str) -> None:
        """Remove an object with all that is known of it; harmless where there is none.

        A signature stays: it is about the bytes of this digest, and holds again when they are back.
        """
        if (withdrawn := self.withdraw(digest)) is not None:
            _delete(withdrawn)

    def withdraw(self, digest: str) -> Path | None:
        """The same, but its files stay until `sweep`; where they lie then, None where there are none.

        A rename needs no room, so an object can be removed where a disk is full. Whoever looks for it finds it whole or
        not at all.
        """
        for path in (self.manifest_file(digest), self._verified_path(digest)):
            if not path.is_dir():
                path.unlink(missing_ok=True)
        place = self.path(digest)
        withdrawn = place.with_name(f".{place.name}.{secrets.token_hex(4)}.{_WITHDRAWN}")
        try:
            return place.rename(withdrawn)
        except FileNotFoundError:
            return None

    def sweep(self) -> None:
        """Delete what was withdrawn, and what processes that are gone have left behind."""
        for path in self.withdrawn():
            _delete(path)
        sweep_abandoned(self._staging)

    def withdrawn(self) -> list[Path]:
        """What `sweep` deletes besides what is abandoned."""
        return sorted(self._objects.glob(f".*.{_WITHDRAWN}"))

    def abandoned(self) -> list[Path]:
        """Staging folders whose owners are gone."""
        return abandoned_below(self._staging)

    def signatures(self) -> dict[str, Path]:
        """Digest -> its signature, of all that were ever signed."""
        return {f"sha256:{path.stem}": path for path in sorted(self._signatures.glob("*.sig"))}

    def _differences(self, digest: str, known: dict[str, Known]) -> list[str]:
        root = self.path(digest)
        self.in_use.hold(digest)
        if not root.is_dir():
            return ["its folder is gone"]
        strangers = strangers_below(root)
        if strangers:
            return [f"{path.relative_to(root)}: no file" for path in strangers]
        manifest = self._manifest(digest)
        try:
            look = look_at(root, known)
        except OSError as error:
            if error.errno in _REFUSED:
                raise
            return [f"{error.filename} cannot be read: {error.strerror}"]
        if look.manifest.digest == digest:
            # The digest alone proves the bytes, so a lost or damaged manifest is written anew.
            if manifest is None:
                with suppress(OSError):  # found out again the next time
                    self._write_manifest(look.manifest)
            if look.known != known:
                write_known(self._verified_path(digest), look.known)
            return []
        if manifest is None:
            return ["the manifest is missing or damaged, and the files are not those of the digest"]
        return differing(manifest.files, look.manifest.files)

    def _write_manifest(self, manifest: Manifest) -> None:
        write_text_atomically(self.manifest_file(manifest.digest), manifest.model_dump_json(indent=2))

    def _manifest(self, digest: str) -> Manifest | None:
        """The object's manifest; None where it is not there or is not the one that the digest is of."""
        try:
            manifest = Manifest.model_validate_json(self.manifest_file(digest).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return manifest if manifest.digest == digest else None

    def manifest_file(self, digest: str) -> Path:
        """The list of the object's files with their digests."""
        return self._manifests / f"{digest.removeprefix('sha256:')}.json"

    def manifest(self, digest: str) -> Manifest:
        """What `manifest_file` holds.

        Raises:
            DamagedObject: It is gone or damaged; `open` writes it anew where there is room.
        """
        manifest = self._manifest(digest)
        if manifest is None:
            raise DamagedObject(digest, self.path(digest), ["its manifest is missing or damaged"])
        return manifest

    def signature_file(self, digest: str) -> Path:
        """The object's signature; not there where nobody signed it."""
        return self._signatures / f"{digest.removeprefix('sha256:')}.sig"

    def _verified_path(self, digest: str) -> Path:
        return self._verified / f"{digest.removeprefix('sha256:')}.json"


def _delete(path: Path) -> None:
    """What cannot be deleted now is swept later."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
