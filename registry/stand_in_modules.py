"""Stands in for torchvision, which engines import for images, where texts are all that they are given.

On a CPU it is left out of the environment: its wheels of the registry are for CUDA, and break transformers beside a
torch without.
"""

import importlib.machinery
import sys
import types
from typing import Any

_MODULES = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.transforms.v2",
    "torchvision.transforms.v2.functional",
)
"""Each behind its parent."""


def stand_in_for_torchvision() -> None:
    """Make `import torchvision` succeed in this process; where it is installed, nothing is done.

    transformers is asked first whether it is there, and keeps the answer: it would take a stand-in for the real one.
    """
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        try:
            import torchvision  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        except (ImportError, RuntimeError, OSError):
            pass
        else:
            return
    for name in _MODULES:
        module = sys.modules[name] = _StandIn(name)
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)


class _StandIn(types.ModuleType):
    """A module in which every name exists and is of no use."""

    __path__: list[str] = []

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # `importlib.util.find_spec` raises on a loaded module without one, and transformers asks it.
        self.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
