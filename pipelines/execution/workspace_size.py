"""How much space the parts of a workspace take."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from configs.errors import QuantbenchError
from pipelines.execution.housekeeping import Wish, planned
from pipelines.execution.workspace import Workspace
from pipelines.planning.garbage import Asked, kinds_of
from pipelines.records.housekeeping import Space, WorkspaceSize

_LOGS = ("logs", "stages")
_KINDS = {
    "answers": "answers",
    "cache": "cache",
    "shadow": "shadow",
    "trials": "trials",
    "rounded": "rounded modules",
    "bench": "bench",
    "mlartifacts": "MLflow",
    "mlflow.db": "MLflow",
    "ledger.db": "ledger",
}
"""First part of a path in the workspace -> what it is."""


def workspace_size(workspace: Workspace) -> WorkspaceSize:
    """What takes the space, the largest first, and how much `gc` would free."""
    objects = kinds_of(workspace.cache.outlines())
    counted: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    for path, status in _files(workspace.root):
        kind, unit = _kind_of(path, objects)
        counted.setdefault(kind, set()).add(unit)
        identity = (status.st_dev, status.st_ino)
        sizes[kind] = sizes.get(kind, 0) + (0 if identity in seen else 512 * status.st_blocks)
        seen.add(identity)
    kinds = [Space(kind=kind, count=len(counted[kind]), bytes=size) for kind, size in sizes.items()]
    frees, unknown = None, None
    try:
        frees = planned(workspace, Wish(Asked())).bytes
    except QuantbenchError as error:
        unknown = error.what
    return WorkspaceSize(
        workspace=str(workspace.root),
        kinds=sorted(kinds, key=lambda one: (-one.bytes, one.kind)),
        bytes=sum(sizes.values()),
        frees_bytes=frees,
        unknown_because=unknown,
    )


def _files(root: Path) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
    """Parts of the path of each file below `root`, with what the kernel says of it; links are not followed."""
    for folder, _, names in os.walk(root):
        parts = Path(folder).relative_to(root).parts
        for name in names:
            try:
                yield (*parts, name), (Path(folder) / name).lstat()
            except FileNotFoundError:
                continue


def _kind_of(path: tuple[str, ...], objects: Mapping[str, str]) -> tuple[str, str]:
    """What a file belongs to: a kind, and which one of that kind."""
    head, second = path[0], path[1] if len(path) > 1 else ""
    third = path[2] if len(path) > 2 else ""
    if head == "store" and second == "objects":
        return objects.get(f"sha256:{third}", "left-overs" if third.startswith(".") else "other objects"), third
    if head == "store":
        return "left-overs" if second == "staging" else "store's lists and signatures", "/".join(path)
    if head == "runs":
        return ("runs' logs" if third in _LOGS else "runs"), second
    return _KINDS.get(head, "other"), second or head
