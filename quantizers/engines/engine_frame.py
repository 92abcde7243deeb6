"""What engines that quantize with calibration rows are run in: a place of its own, rows, a proof that all was made."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import RequestError, StageError
from registry.contracts import QuantizedModule
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob


@contextlib.contextmanager
def engine_at_work(engine: str, job: QuantizeJob) -> Iterator[Path]:
    """Run an engine in the block: in a working directory that goes away with whatever it leaves there, its stdout sent
    to stderr, which is the stage's log. Gives the job's output folder.

    Raises:
        StageError: The job names no output folder, or the engine raised anything that does not explain itself.
    """
    if job.output_dir is None:
        raise StageError("a quantize job names no output_dir", remedy="give the job an empty output directory")
    output_dir = job.output_dir.resolve()
    with (
        tempfile.TemporaryDirectory(prefix=f"{engine}-") as scratch,
        contextlib.chdir(scratch),
        contextlib.redirect_stdout(sys.stderr),
    ):
        try:
            yield output_dir
        except (RequestError, StageError):
            raise
        except Exception as error:
            check_not_refused(error, f"{engine} at {job.name}", output_dir)
            rows = "more calibration rows or a larger damp_percent help where a matrix could not be inverted; else "
            raise StageError(
                f"{engine} gave up on {job.name} ({job.config.method}): {type(error).__name__}: {error}",
                remedy=f"it would do so again: {rows if job.calibration_dir else ''}take another method or dtype, and"
                " read this stage's log",
                blame="engine",
            ) from error


def read_rows(calibration_dir: Path | None) -> list[list[int]]:
    """Token ids of each calibration row, from `rows.json`."""
    if calibration_dir is None:
        raise StageError(
            "GPTQ and AWQ need calibration rows and the job names none", remedy="add a calibration to the recipe"
        )
    rows: list[list[int]] = json.loads((calibration_dir / "rows.json").read_text(encoding="utf-8"))
    return rows


def one_length(engine: str, rows: Sequence[Sequence[int]], otherwise: str) -> int:
    """Tokens of each calibration row.

    Args:
        engine: Its name.
        rows: Token ids of each.
        otherwise: What the engine would do with rows of several lengths, said after `it would`.

    Raises:
        StageError: They are of several lengths.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise StageError(
            f"{engine} takes calibration rows of one length, and these have {min(lengths)} to {max(lengths)} tokens: it"
            f" would {otherwise}",
            remedy="take calibration `source: self`, or texts of which each gives `tokens` tokens",
            blame="recipe",
        )
    return lengths.pop()


def check_complete(engine: str, modules: Sequence[QuantizedModule], linear_shapes: Mapping[str, object]) -> None:
    """Raise StageError where Linears of the checkpoint were left as they were; engines only log it."""
    missing = sorted(set(linear_shapes) - {module.name for module in modules})
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise StageError(
            f"{engine} left {len(missing)} of {len(linear_shapes)} Linears unquantized: {shown}",
            remedy="use more calibration rows, so that every module sees tokens",
            blame="recipe",
        )
