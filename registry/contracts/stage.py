"""What a stage process hands back, whatever the stage does."""

from typing import Any, Self

from configs.errors import Blame, QuantbenchError
from registry.contracts.base import Record


class ObjectRef(Record):
    """A directory in the content-addressed store."""

    digest: str
    """`sha256:<hex>` of the directory's manifest."""
    size_bytes: int


class Failure(Record):
    """Why a stage did not give a result; written by the stage itself where it can explain, by the runner where not."""

    what: str
    remedy: str
    exit_code: int = 3
    because_of: list[str] = []
    """Stages whose failure this one follows from: it was skipped. Empty for a failure of its own."""
    blame: Blame | None = None
    """Where the fault lies; None where nothing shows it."""

    @classmethod
    def of(cls, error: QuantbenchError) -> Self:
        """What `error` says."""
        return cls(what=error.what, remedy=error.remedy, exit_code=error.exit_code, blame=error.blame)


class StageResult(Record):
    """One finished (or failed) stage. A record beside a failure is the finding that the failure was judged from."""

    stage: str
    record: dict[str, Any] | None = None
    """The stage's own record as JSON; of what type is in `RECORD_TYPES`."""
    object: ObjectRef | None = None
    """What the stage put into the store, for stages that make files."""
    failure: Failure | None = None
    timings_seconds: dict[str, float] = {}
    """Where the time went, by part: `import`, `load`, `quantize`, `save`, `serve_start`, `evaluate`, ..."""
    versions: dict[str, str] = {}
    """Versions of the libraries that shaped the result."""
    peak_memory_bytes: int | None = None
    """Peak resident memory of the stage's process tree; None where it was not sampled."""
