"""What a run leaves in the tracking server for the review page of other machines: more than metrics and tags hold."""

from pathlib import Path

from configs.errors import UnreadableError
from configs.reading.text import MalformedError, text_of
from pipelines.records.run_record import ResultFile, RunRecord
from pipelines.review.one_run import run_detail
from pipelines.review.page_data import RunDetail
from pipelines.review.summaries import VERSION, RunSummary, summary_of
from registry.contracts.base import Record
from registry.sealed import DamagedFile, parse_sealed, write_sealed

SHARED_FILE = "review.json"
MOST_SHARED_BYTES = 16 << 20
"""A run of ten artifacts takes 200 kB."""


class SharedRun(Record):
    """`SHARED_FILE` among the files of the recipe's run."""

    version: int = VERSION
    summary: RunSummary
    detail: RunDetail


def write_shared(record: RunRecord, folder: Path) -> Path:
    """Write it into `folder`; its path."""
    path = folder / SHARED_FILE
    # The server knows it by its own id, whatever its folder is called here.
    of_record = ResultFile(Path(record.run_id) / SHARED_FILE, size_bytes=0, written_ns=0)
    write_sealed(path, SharedRun(summary=summary_of(record, of_record), detail=run_detail(record)))
    return path


def read_shared(content: bytes, run_id: str) -> SharedRun | None:
    """What `write_shared` wrote on another machine; None where it is damaged, of another version or of another run.

    Args:
        content: Of the file.
        run_id: That the server knows the run by.
    """
    try:
        shared = parse_sealed(text_of(content), SHARED_FILE, SharedRun)
    except (DamagedFile, MalformedError, UnreadableError):
        return None
    return shared if shared.version == VERSION and shared.summary.recorded_id == run_id else None
