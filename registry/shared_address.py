"""Where a shared store lies: a folder that every node mounts, or a bucket of an object store."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from configs.errors import RequestError
from registry.shared_files import SharedFiles, SharedFolder

_EXAMPLES = "name a folder that every node mounts, such as /mnt/quantbench, or a bucket, such as s3://models/quantbench"


class SharedAddress(NamedTuple):
    """An address that holds no secret."""

    protocol: str
    """`file` for a folder, else fsspec's name of the object store, such as `s3`."""
    path: str
    """Absolute path of the folder, or bucket and prefix; without a slash at its end."""

    def __str__(self) -> str:
        return self.path if self.protocol == "file" else f"{self.protocol}://{self.path}"


def shared_address(text: str) -> SharedAddress:
    """Read an address; nothing is opened.

    Raises:
        RequestError: It is none, or holds what may be a password.
    """
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not quoted: what follows may be a key.
        raise RequestError(
            f"the address of the shared store ({parts.scheme}) holds a user, a password or a query",
            remedy="name bucket and prefix alone; credentials come from the object store's own places on each node,"
            " such as AWS_PROFILE, ~/.aws/credentials or the instance's role",
        )
    protocol = parts.scheme or "file"
    path = parts.path if protocol == "file" else parts.netloc + parts.path
    if "::" in text or (protocol == "file" and (parts.netloc or not path.startswith("/"))):
        raise RequestError(f"{text!r} is no address of a shared store", remedy=_EXAMPLES)
    if not path.strip("/"):
        raise RequestError(f"{text!r} names no folder or bucket", remedy=_EXAMPLES)
    return SharedAddress(protocol, path.rstrip("/"))


def opened(address: SharedAddress) -> SharedFiles:
    """The files at an address.

    Raises:
        RequestError: No folder is there, or nothing installed knows the protocol.
    """
    if address.protocol == "file":
        folder = Path(address.path)
        if not folder.is_dir():
            raise RequestError(
                f"the shared store {folder} is no folder on this node",
                remedy="mount it here, as on the other nodes, or make it once on the shared file system",
                blame="machine",
            )
        return SharedFolder(folder)
    raise RequestError(f"{address.protocol}:// is not known here", remedy=_EXAMPLES)
