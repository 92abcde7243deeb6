"""Content-addressed directories: `objects/<hex>/` holds files as they are, `manifests/<hex>.json` what they must be.

An object's directory is a model directory as transformers and vLLM know it, so it is served from where it lies.
"""

import os
import shutil
import uuid
from pathlib import Path

from configs.errors import RequestError
from registry.contracts import ObjectRef
from registry.files import fsync_tree, write_text_atomically
from registry.hashing import Manifest, manifest_of


class Store:
    """Objects of one workspace. Several processes may use one store at once: the last step of `put` is a rename."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._manifests = root / "manifests"
        self._staging = root / "staging"

    def new_staging_dir(self) -> Path:
        """An empty directory on the store's own file system, so that `put` needs no copy."""
        directory = self._staging / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        directory.mkdir(parents=True)
        return directory

    def put(self, staging_dir: Path) -> ObjectRef:
        """Move `staging_dir` into the store and return its address. An object that is there already stays."""
        fsync_tree(staging_dir)
        manifest = manifest_of(staging_dir)
        write_text_atomically(self._manifest_path(manifest.digest), manifest.model_dump_json(indent=2))
        self._objects.mkdir(parents=True, exist_ok=True)
        target = self.path(manifest.digest)
        try:
            # rename(2) replaces an empty directory only, so of two writers one wins and the other finds it there.
            staging_dir.rename(target)
        except OSError:
            if not self.is_complete(manifest.digest):
                broken = self._staging / f"broken-{uuid.uuid4().hex[:12]}"
                target.rename(broken)
                staging_dir.rename(target)
                shutil.rmtree(broken, ignore_errors=True)
            else:
                shutil.rmtree(staging_dir)
        return ObjectRef(digest=manifest.digest, size_bytes=manifest.size_bytes)

    def path(self, digest: str) -> Path:
        """Where the object's files lie (or would lie)."""
        return self._objects / digest.removeprefix("sha256:")

    def digests(self) -> list[str]:
        """Every object that has a manifest."""
        return sorted(f"sha256:{path.stem}" for path in self._manifests.glob("*.json"))

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
        """Whether every file is there with its size; quick, reads no content."""
        manifest = self._manifest(digest)
        if manifest is None:
            return False
        root = self.path(digest)
        return all(
            (root / name).is_file() and (root / name).stat().st_size == entry.size_bytes
            for name, entry in manifest.files.items()
        )

    def verify(self, digest: str) -> list[str]:
        """Read every byte and return what differs from the manifest, one sentence a file; empty when all is well."""
        manifest = self._manifest(digest)
        if manifest is None:
            return ["the manifest is missing or unreadable"]
        if manifest.digest != digest:
            return ["the manifest was changed"]
        actual = manifest_of(self.path(digest)).files
        return [
            f"{name}: {'missing' if name not in actual else 'added' if name not in manifest.files else 'changed'}"
            for name in sorted(actual.keys() | manifest.files.keys())
            if actual.get(name) != manifest.files.get(name)
        ]

    def remove_stale_staging(self) -> None:
        """Delete what processes that are gone have left behind."""
        for directory in self._staging.glob("*-*"):
            owner = directory.name.split("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(directory, ignore_errors=True)

    def _manifest(self, digest: str) -> Manifest | None:
        try:
            return Manifest.model_validate_json(self._manifest_path(digest).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _manifest_path(self, digest: str) -> Path:
        return self._manifests / f"{digest.removeprefix('sha256:')}.json"
