"""The sensitivity stage: what the model loses module by module. Cheap estimates of all, then trials of the foremost.

It is made once for a checkpoint, its calibration rows and a group size, whatever budgets and methods read it.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import RequestError, StageError
from quantizers.engines.engine_frame import read_rows
from quantizers.precision.units import Unit, units_of
from quantizers.sensitivity.estimate import estimated_losses
from quantizers.sensitivity.rounding import MEASURED_BITS
from quantizers.sensitivity.trials import HeldOut, candidates, run_trials
from registry.contracts import CheckpointRecord, SensitivityRecord, StageJob, UnitSensitivity
from registry.contracts.base import Device, DType
from registry.contracts.sensitivity import ALL_UNITS
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    import torch

    from registry.stage_process import StageClock

_LIBRARIES = ("torch", "transformers")
_TOKENS = 1024
"""That estimates are made of, and as many others that trials are measured on."""
_BATCH_TOKENS = 512
_KEPT_BYTES = 1 << 30
"""Of the model's own log-probabilities, which every trial is compared with."""


class SensitivityJob(StageJob):
    """Measure one checkpoint."""

    checkpoint_dir: Path
    checkpoint: CheckpointRecord
    calibration_dir: Path
    calibration_digest: str
    group_size: int
    """Weights of a row that share a scale while modules are rounded; -1 is the whole row."""
    bits: list[int]
    """That somebody may choose; trials are made in no others."""
    trials: int
    """Whole-model measurements at most."""
    trials_file: Path | None = None
    """Keeps every trial as it is made, for a process that goes on where this one was killed."""
    device: Device
    dtype: DType
    threads: int


def measure_sensitivity(job: SensitivityJob, clock: StageClock) -> tuple[SensitivityRecord, dict[str, str]]:
    """Estimate every unit, try the foremost.

    Returns:
        The record, and distribution name -> version of the libraries that computed it.

    Raises:
        RequestError: There are fewer than two calibration rows.
        StageError: A loss is no number, or transformers has other Linears than the checkpoint's record.
    """
    with clock.part("import"):
        import torch
        from transformers import AutoModelForCausalLM
    torch.set_num_threads(job.threads)
    rows = read_rows(job.calibration_dir)
    with clock.part("load"):
        model: Any = AutoModelForCausalLM.from_pretrained(
            job.checkpoint_dir, dtype=getattr(torch, job.dtype), device_map=job.device
        ).eval()
    linears = _linears(model, job.checkpoint)
    first, last = split_rows(rows, _TOKENS, min(_TOKENS, _KEPT_BYTES // (4 * model.config.vocab_size)))
    batches, held_out = ([*_batches(some, job.device)] for some in (first, last))
    units = units_of(job.checkpoint.linear_shapes)
    try:
        with clock.part("estimate"):
            of_modules = estimated_losses(
                model, linears, batches, job.group_size, lambda done, all_: clock.progress("estimate", done, all_)
            )
        estimated = {
            unit.name: {bits: sum(of_modules[module][bits] for module in unit.modules) for bits in MEASURED_BITS}
            for unit in units
        }
        with clock.part("trials"):
            own = HeldOut(model, held_out)
            members = {unit.name: unit.modules for unit in units} | {ALL_UNITS: tuple(linears)}
            measured = run_trials(
                candidates(units, estimated, job.bits, job.trials),
                lambda unit, bits: own.nats([linears[module] for module in members[unit]], bits, job.group_size),
                job.trials_file,
                lambda done, all_: clock.progress("trials", done, all_),
            )
    except (RuntimeError, MemoryError) as error:
        check_not_refused(error, "measuring sensitivity", job.trials_file or job.checkpoint_dir)
        raise
    record = SensitivityRecord(
        checkpoint_digest=job.checkpoint.digest,
        calibration_digest=job.calibration_digest,
        group_size=job.group_size,
        units=[_of_unit(unit, estimated[unit.name], measured) for unit in units],
        uniform_nats={bits: nats for (unit, bits), nats in measured.items() if unit == ALL_UNITS},
        estimate_tokens=sum(ids.numel() for ids in batches),
        held_out_tokens=own.tokens,
        dtype=job.dtype,
    )
    return record, {library: importlib.metadata.version(library) for library in _LIBRARIES}


def _of_unit(unit: Unit, estimated: dict[int, float], measured: dict[tuple[str, int], float]) -> UnitSensitivity:
    return UnitSensitivity(
        name=unit.name,
        modules=list(unit.modules),
        weights=unit.weights,
        estimated_nats=estimated,
        measured_nats={bits: nats for (name, bits), nats in measured.items() if name == unit.name},
    )


def _linears(model: Any, checkpoint: CheckpointRecord) -> dict[str, torch.nn.Linear]:
    modules = dict(model.named_modules())
    missing = [name for name in checkpoint.linear_shapes if not hasattr(modules.get(name), "weight")]
    if missing:
        raise StageError(
            f"transformers has no Linear {missing[0]} in {checkpoint.architecture} ({len(missing)} in all), whose loss"
            " is to be measured",
            remedy="leave `mixed_precision` out for this model",
            blame="recipe",
        )
    return {name: modules[name] for name in checkpoint.linear_shapes}


def split_rows(
    rows: Sequence[list[int]], estimate_tokens: int, held_out_tokens: int
) -> tuple[list[list[int]], list[list[int]]]:
    """The first rows, and as many of the last ones as are no longer than asked; each row is in one of both at most.

    Raises:
        RequestError: There are fewer than two rows.
    """
    if len(rows) < 2:
        raise RequestError(
            f"mixed precision measures losses on rows that its estimates have not seen, and there is {len(rows)} row",
            remedy="set calibration.samples to 2 or more",
        )
    half = len(rows) // 2
    return _first(rows[:half], estimate_tokens), _first(rows[: half - 1 : -1], held_out_tokens)


def _first(rows: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """One row at least."""
    totals = itertools.accumulate(map(len, rows))
    return [row for place, (row, total) in enumerate(zip(rows, totals, strict=True)) if not place or total <= tokens]


def _batches(rows: Sequence[list[int]], device: Device) -> Iterator[torch.Tensor]:
    """[rows, tokens] of rows of one length, which need no padding."""
    import torch

    for length, alike in itertools.groupby(sorted(rows, key=len), key=len):
        of_one_length, at_once = list(alike), max(1, _BATCH_TOKENS // length)
        for start in range(0, len(of_one_length), at_once):
            yield torch.tensor(of_one_length[start : start + at_once], device=device)
