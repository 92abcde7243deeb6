"""A bucket of an object store as the place of a shared store, through fsspec.

Object stores show a file when its last part has come and not before, so nothing has to be renamed. Time limits, retries
and credentials are those of the store's own library, as its variables and files on this machine say.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem, Callback, get_filesystem_class

from configs.errors import RequestError, StageError
from registry.shared_files import Sent

_OPTIONS: dict[str, dict[str, Any]] = {
    # Parts of one file one after the other: so s3fs goes on within a file whose connection broke, and holds 50 MiB of
    # it in memory instead of 500. Several files go over at once.
    "s3": {"max_concurrency": 1},
}
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What no object store answers, and an error of write(2) says without its file."""
_ABOUT_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
)
"""botocore's errors before it asks; imported by nobody who uses no bucket."""
_SHOWN_CHARACTERS = 200


class SharedBucket:
    """Files below a prefix.

    Args:
        files: The object store.
        protocol: Its name.
        path: Bucket and prefix.
    """

    def __init__(self, files: AbstractFileSystem, protocol: str, path: str) -> None:
        self._files, self._top = files, str(files._strip_protocol(path))
        self._address = f"{protocol}://{path}"

    @classmethod
    def opened(cls, protocol: str, path: str, package: str) -> "SharedBucket":
        """The files below a prefix of a bucket that is there.

        Args:
            package: What has to be installed for the protocol.

        Raises:
            RequestError: There is no such bucket, or the package is not installed.
            StageError: It does not answer, or refuses this machine.
        """
        try:
            kind = get_filesystem_class(protocol)
        except ImportError:
            raise RequestError(
                f"{protocol}:// needs a package that is not installed here",
                remedy=f"pip install '{package}', on every node",
            ) from None
        # Listings are not remembered: others write meanwhile.
        files = kind(skip_instance_cache=True, use_listings_cache=False, **_OPTIONS.get(protocol, {}))
        bucket = cls(files, protocol, path)
        bucket._check()
        return bucket

    def sizes(self, folder: str) -> dict[str, int]:
        top = f"{self._top}/{folder}/"
        with self._answering():
            try:
                found = self._files.find(top, detail=True)
            except FileNotFoundError:
                return {}
        return {name.removeprefix(top): about["size"] for name, about in found.items() if about["type"] == "file"}

    def send(self, source: Path, name: str, sent: Sent) -> None:
        with self._answering():
            self._files.put_file(str(source), f"{self._top}/{name}", callback=_Told(sent))

    def receive(self, name: str, target: Path, sent: Sent) -> None:
        with self._answering():
            self._files.get_file(f"{self._top}/{name}", str(target), callback=_Told(sent))

    def read(self, name: str) -> bytes:
        with self._answering():
            return bytes(self._files.cat_file(f"{self._top}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        with self._answering():
            self._files.pipe_file(f"{self._top}/{name}", content)

    def remove(self, name: str) -> None:
        with self._answering(), suppress(FileNotFoundError):
            self._files.rm(f"{self._top}/{name}", recursive=True)

    def free_bytes(self) -> int | None:
        return None

    def _check(self) -> None:
        with self._answering():
            try:
                self._files.ls(self._top)
            except FileNotFoundError:  # nothing was written there yet, or there is no bucket
                bucket = self._top.partition("/")[0]
                if not self._files.exists(bucket):
                    raise RequestError(
                        f"there is no bucket {bucket} for {self._address}",
                        remedy="make it, name another, or see which endpoint this machine asks (AWS_ENDPOINT_URL)",
                    ) from None

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (RequestError, FileNotFoundError, InterruptedError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and (error.filename is not None or error.errno in _OF_THIS_DISK):
                raise
            raise self._told(error) from error

    def _told(self, error: Exception) -> StageError:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN_CHARACTERS]
        if isinstance(error, PermissionError) or type(error).__name__ in _ABOUT_CREDENTIALS:
            return StageError(
                f"{self._address} refuses this machine ({words})",
                remedy="give it credentials in the object store's own way, such as AWS_PROFILE, ~/.aws or the machine's"
                " role, and the right to list, read, write and delete there",
                blame="machine",
            )
        return StageError(
            f"{self._address} does not answer as it should ({words})",
            remedy="see whether this machine reaches it (endpoint, proxy, firewall), then run the same command:"
            " finished stages are kept",
            blame="machine",
        )


class _Told(Callback):  # type: ignore[misc]
    """Hands bytes on as fsspec counts them."""

    def __init__(self, sent: Sent) -> None:
        super().__init__()
        self._sent = sent

    def relative_update(self, inc: int = 1) -> None:
        self._sent(inc)
