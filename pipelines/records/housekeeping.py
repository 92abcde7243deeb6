"""What takes a workspace's space, and what became of it."""

from registry.contracts.base import Record


class Space(Record):
    """Of one kind of thing."""

    kind: str
    count: int
    """Objects, files or folders, as people count them."""
    bytes: int
    """On disk, allocated; what is linked twice counts once."""


class WorkspaceSize(Record):
    """Of all that a workspace holds."""

    workspace: str
    kinds: list[Space]
    bytes: int
    frees_bytes: int | None
    """What `gc` would free as it is asked by default; None where that cannot be known."""
    unknown_because: str | None = None
    """Why it cannot."""


class Removed(Record):
    """One thing that goes."""

    kind: str
    name: str
    """Digest of an object, else a path in the workspace."""
    bytes: int
    """That are free afterwards."""


class Kept(Record):
    """Objects that stay for one reason."""

    why: str
    objects: int
    bytes: int


class Collection(Record):
    """What `gc` did, or would do."""

    workspace: str
    done: bool
    """False for a dry run."""
    removed: list[Removed]
    kept: list[Kept]
    bytes: int
    """That are free afterwards."""
    problems: list[str] = []
    """What could not be removed, each with why."""
