"""One record a request: what the load tests' numbers are made of, kept as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from configs.errors import StageError
from registry.files import written_atomically
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

LOAD_REQUESTS_FILE = "load_requests.parquet"

Outcome = Literal["ok", "failed", "timed_out"]


@dataclass(frozen=True)
class RequestRow:
    """One request of a load test. Times are seconds since the load test's first arrival."""

    point: int
    """The load test's place in the record's `load_points`, from 0."""
    profile: str
    prompts: str
    request: int
    """Place among the load test's requests."""
    arrival_seconds: float
    """Open loop: when it was due. Closed loop: when a place became free for it."""
    start_seconds: float
    """When the client sent it."""
    ttft_seconds: float | None
    """From `start_seconds` to the first token."""
    itl_seconds: list[float]
    """Gaps between the pieces of the answer, each mostly one token."""
    e2e_seconds: float
    """From `start_seconds` to the last token, or to the failure."""
    prompt_tokens: int
    """As the server counted them where it told, else as they were cut."""
    output_tokens: int
    outcome: Outcome
    error: str
    """The last line of what went wrong; empty for completed requests."""

    @property
    def queue_seconds(self) -> float:
        """What the client took to send it after it had arrived."""
        return self.start_seconds - self.arrival_seconds

    @property
    def end_seconds(self) -> float:
        """When it was over."""
        return self.start_seconds + self.e2e_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Mean time between its tokens after the first; None for fewer than two."""
        if self.ttft_seconds is None or self.output_tokens < 2:
            return None
        return (self.e2e_seconds - self.ttft_seconds) / (self.output_tokens - 1)


def write_rows(path: Path, rows: Sequence[RequestRow]) -> None:
    """Write `rows` as Parquet (zstd), whole or not at all."""
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
    with written_atomically(path) as file:
        pyarrow.parquet.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_rows(path: Path) -> list[RequestRow]:
    """What `write_rows` wrote, in its order.

    Raises:
        StageError: The file is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        return [RequestRow(**row) for row in table.to_pylist()]
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        check_not_refused(error, f"reading {path}", path)
        raise StageError(f"{path} is damaged: {error}", remedy="measure the model again") from error


def _schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        {
            "point": pyarrow.int32(),
            "profile": pyarrow.string(),
            "prompts": pyarrow.string(),
            "request": pyarrow.int32(),
            "arrival_seconds": pyarrow.float64(),
            "start_seconds": pyarrow.float64(),
            "ttft_seconds": pyarrow.float64(),
            "itl_seconds": pyarrow.list_(pyarrow.float64()),
            "e2e_seconds": pyarrow.float64(),
            "prompt_tokens": pyarrow.int32(),
            "output_tokens": pyarrow.int32(),
            "outcome": pyarrow.string(),
            "error": pyarrow.string(),
        }
    )
