"""Where the stages of a run do their work: on this machine, or on the nodes of a Ray cluster."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from configs.base import StrictModel
from configs.quantities import Count, Label
from registry.shared_address import shared_address

_ADDRESS = re.compile(r"auto|local|(?:ray://)?(?:[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


def _ray_address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"] or 1) < 65536:
        raise ValueError("an address of Ray is wanted: auto, local, HOST:PORT or ray://HOST:PORT")
    return text


def _store_address(text: str) -> str:
    return str(shared_address(text))


class LocalExecutor(StrictModel):
    """This machine."""

    kind: Literal["local"] = "local"


class RayExecutor(StrictModel):
    """A Ray cluster: each stage is a task that takes a node whole. Needs `pip install quantbench[ray]` here and there.

    No part of any key: a node where a result would be another one is refused before work.
    """

    kind: Literal["ray"]
    address: Annotated[Label, AfterValidator(_ray_address)] = "auto"
    """`auto`: the cluster that this machine is a node of; `HOST:PORT` names one of several. `ray://HOST:PORT`: one that
    this machine is no node of, by Ray's client server. `local`: a cluster of this machine alone, as long as the run."""
    store: Annotated[Label, AfterValidator(_store_address)]
    """Through which nodes hand each other checkpoints and artifacts: a folder that all mount, or a bucket."""
    retries: Annotated[Count, Field(le=100)] = 3
    """How often a stage is begun again whose node or worker process died. A failure of its own is not repeated."""


ExecutorConfig = Annotated[LocalExecutor | RayExecutor, Field(discriminator="kind")]
