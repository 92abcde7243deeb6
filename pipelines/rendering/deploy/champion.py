"""One model as it was measured: what each target's files are made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.errors import RequestError
from pipelines.recipe.deploy_config import DeployConfig
from pipelines.records.rows import Row
from registry.contracts import LoadPoint, ServingRecord
from registry.contracts.base import format_of
from serving_checks.engines.base import Container, Engine, LaunchedConfig, ServingConfig
from serving_checks.engines.table import AnyServingConfig, engine_of

MODELS = "/mnt/models"
"""Where a container finds the artifact, read-only."""
_SCRATCH = {"HOME": "/tmp", "USER": "quantbench"}  # noqa: S108 - the container's own
"""Engines and torch write caches below HOME, and ask who they are; the user of a container is a number."""
_PERCENTILES = {50: "p50_seconds", 90: "p90_seconds", 95: "p95_seconds", 99: "p99_seconds"}


@dataclass(frozen=True)
class Champion:
    """What is deployed."""

    run_id: str
    name: str
    """Of the row."""
    digest: str
    registered_model: str
    version: str | None
    """Of the registered model; None where no alias named it."""
    method: str
    size_bytes: int
    serving: ServingRecord
    config: ServingConfig
    slo_ttft_seconds: float | None
    settings: DeployConfig

    @property
    def model(self) -> str:
        """What clients call it."""
        return self.settings.model or self.registered_model

    @property
    def engine(self) -> Engine:
        return engine_of(self.config)

    @cached_property
    def container(self) -> Container:
        """How it is started. Raises RequestError for an engine that is not started so, or one on several machines."""
        if self.config.over_machines:
            raise RequestError(
                f"{self.name} was served over the machines of a Ray cluster, and what is rendered is for one machine",
                remedy="measure it on the GPUs of one machine (without serving.distributed_executor_backend), and"
                " deploy that",
            )
        found = self.engine.container(self.model, self.serving.dtype, self.serving)
        if found is None:
            raise RequestError(
                f"{self.name} was measured on {self.serving.engine}, and how that is deployed is not known",
                remedy="leave `serving.engine` out of its recipe, and deploy what that measures",
            )
        return found

    @property
    def image(self) -> str:
        """Of a container that has all that the artifact's format needs. Raises RequestError where none is known."""
        plugin = self.plugin
        if plugin is not None and self.settings.image is None:
            raise RequestError(
                f"{self.name} ({self.method}) was served through {plugin}, which {self.container.image} has not",
                remedy=f"build an image (FROM {self.container.image}, RUN pip install {plugin}) and name it:"
                " --set image=REGISTRY/NAME:TAG",
            )
        return self.settings.image or self.container.image

    @property
    def plugin(self) -> str | None:
        """The package beside the engine that serves the artifact's format."""
        known = {str(method): package for method, package in self.engine.formats_of_plugins.items()}
        return known.get(str(format_of(self.method)))  # type: ignore[arg-type]

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its container."""
        return {**_SCRATCH, **self.container.env}

    def command(self, folder: str, host: str) -> list[str]:
        """What its container runs.

        Args:
            folder: The artifact's, there.
            host: Address that it listens on.
        """
        listen = ["--host", host, "--port", str(self.settings.port)]
        return [*self.container.command, folder, *listen, *self.container.arguments]

    @property
    def ranks(self) -> int:
        return self.config.ranks

    @property
    def most_at_once(self) -> int:
        """Requests that a server works on at once."""
        return self.serving.max_num_seqs or self.config.max_num_seqs or 1

    @property
    def startup_seconds(self) -> int:
        """Until a server has to be healthy: thrice what was measured, which a busier machine or a slower disk takes."""
        measured = 3 * (self.serving.start_seconds or 0.0)
        given_up = self.config.start_deadline_seconds if isinstance(self.config, LaunchedConfig) else 600.0
        # A fork server had done the imports before; what they take was not measured.
        return math.ceil(measured if measured and not self.serving.forked else max(measured, given_up))

    @property
    def sound_points(self) -> list[LoadPoint]:
        """Closed-loop load tests at which nothing failed, the lowest load first."""
        points = [one for one in self.serving.load_points if one.concurrency and not one.failed and one.invalid is None]
        return sorted(points, key=lambda one: one.concurrency or 0)

    @property
    def ttft_seconds(self) -> dict[int, float]:
        """Requests at a time -> time to the first token at the percentile that is scaled by, of the slowest prompt mix.

        A level at which anything failed is left out.
        """
        field, found = _PERCENTILES[self.settings.scale.percentile], dict[int, float]()
        unsound = {one.concurrency for one in self.serving.load_points if one not in self.sound_points}
        for point in self.sound_points:
            level = point.concurrency or 0
            if level not in unsound:
                found[level] = max(found.get(level, 0.0), float(getattr(point.ttft, field)))
        return found

    def metadata(self) -> dict[str, str]:
        """By which a deployed object is known again; texts that labels of no platform refuse."""
        return {"quantbench.digest": self.digest, "quantbench.run": self.run_id, "quantbench.model": self.name}


def champion_of(
    row: Row, run_id: str, registered_model: str, config: Mapping[str, Any], version: str | None, settings: DeployConfig
) -> Champion:
    """A measured row as a champion.

    Args:
        config: The run's recipe.
        version: Of the registered model.

    Raises:
        RequestError: It was not measured, or otherwise than the recipe in its run's record says.
    """
    if row.serving is None or row.digest is None:
        why = row.failure or row.blocked_by
        raise RequestError(
            f"{row.name} was not measured in run {run_id}{f': {why}' if why else ''}",
            remedy="run its recipe until it is: what is deployed is what was measured",
        )
    try:
        asked: ServingConfig = TypeAdapter(AnyServingConfig).validate_python(config.get("serving", {}))
    except ValidationError as error:
        raise RequestError(
            f"`serving` in run {run_id}'s record is not read by this version: {error.errors()[0]['msg']}",
            remedy="run its recipe again: what was measured is kept",
        ) from None
    check_as_measured(row.name, asked, row.serving)
    slo = (config.get("load") or {}).get("slo") or {}
    return Champion(
        run_id=run_id,
        name=row.name,
        digest=row.digest,
        registered_model=registered_model,
        version=version,
        method=row.method,
        size_bytes=row.serving.memory.artifact_bytes,
        serving=row.serving,
        config=asked,
        slo_ttft_seconds=slo.get("ttft_seconds"),
        settings=settings,
    )


def check_as_measured(name: str, asked: ServingConfig, serving: ServingRecord) -> None:
    """Refuse a recipe that says otherwise than the server of the measurement told of itself. Raises RequestError."""
    told = {
        "engine": (asked.engine, serving.engine),
        "tensor_parallel_size": (asked.tensor_parallel_size, serving.tensor_parallel_size),
        "pipeline_parallel_size": (asked.pipeline_parallel_size, serving.pipeline_parallel_size),
        "max_num_seqs": (asked.max_num_seqs, serving.max_num_seqs),
        "enforce_eager": (getattr(asked, "enforce_eager", None), serving.eager),
    }
    for field, (in_recipe, measured) in told.items():
        if in_recipe is not None and measured is not None and in_recipe != measured:
            raise RequestError(
                f"{name} was measured with {field} {measured}, and the recipe in the run's record has {in_recipe}",
                remedy="run the recipe again, so that both are one",
            )
