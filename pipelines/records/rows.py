"""One row a model: what the terminal and the page both show. Pure: records in, values out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from pipelines.records.comparison import Comparison
from registry.contracts import (
    ArtifactRecord,
    CategoryRetention,
    CategoryScore,
    CharacterizationRecord,
    CheckpointRecord,
    InspectionRecord,
    LoadPoint,
    MeasurementRecord,
    ProofScope,
    RetentionRecord,
    ServingRecord,
    SoundnessCheck,
    SoundnessRecord,
    StageResult,
    TokenAgreementRecord,
    VerbosityRecord,
)
from registry.contracts.base import Record
from registry.contracts.comparison import Verdict

UNQUANTIZED = "none"
"""The method of a baseline."""


class ServedModel(Record, ABC):
    """One model as far as it was served: what the parts on speed, memory and checks read."""

    name: str

    @property
    @abstractmethod
    def serving(self) -> ServingRecord | None:
        """How it was served, once it was."""

    @property
    def load_points(self) -> list[LoadPoint]:
        """All load tests, valid or not."""
        return self.serving.load_points if self.serving else []

    def closed_point(self, concurrency: int) -> LoadPoint | None:
        """The closed-loop load test at one level, under the first prompt mix."""
        closed = [point for point in self.load_points if point.concurrency is not None]
        return next(
            (point for point in closed if point.concurrency == concurrency and point.prompts == closed[0].prompts), None
        )

    def tokens_per_second(self, concurrency: int) -> float | None:
        """Output tokens per second at one level of the closed loop; None where they must not be believed."""
        point = self.closed_point(concurrency)
        return point.output_tokens_per_second if point and point.invalid is None else None


class BenchedModel(ServedModel):
    """A model that was served and loaded, and not evaluated."""

    served: ServingRecord

    @property
    def serving(self) -> ServingRecord:
        """See `ServedModel.serving`."""
        return self.served


class Row(ServedModel):
    """One model of a run, as far as it is known."""

    method: str
    artifact: ArtifactRecord | None = None
    checkpoint: CheckpointRecord | None = None
    """For the baseline."""
    inspection: InspectionRecord | None = None
    measurement: MeasurementRecord | None = None
    retention: RetentionRecord | None = None
    characterization: CharacterizationRecord | None = None
    """Where it lost; beside `retention`."""
    token_agreement: TokenAgreementRecord | None = None
    verbosity: VerbosityRecord | None = None
    quantization: RetentionRecord | None = None
    """Where it was served in another dtype than the baseline: what it kept of the baseline in its own dtype."""
    soundness: list[SoundnessCheck] = []
    """Of the baseline: what was asked of it before anything was compared with it."""
    failure: str | None = None
    blocked_by: str | None = None
    """Stage of the baseline whose failure left this artifact unmade or unmeasured: no fault of the artifact's."""

    @property
    def digest(self) -> str | None:
        """Of the model's files: an artifact's, or the checkpoint's of the baseline."""
        return self.artifact.digest if self.artifact else self.checkpoint.digest if self.checkpoint else None

    @property
    def size_bytes(self) -> int | None:
        """Safetensors on disk, as measured; from the artifact's record while it is not yet measured."""
        if self.measurement:
            return self.measurement.serving.memory.artifact_bytes
        return self.artifact.size_bytes if self.artifact else None

    @property
    def sound(self) -> bool | None:
        """Whether it passed its inspection and was served and measured; None while that is not known.

        It says nothing about what was lost: see `verdict`.
        """
        if self.failure:
            return False
        return True if self.measurement else None

    @property
    def verdict(self) -> Verdict | None:
        """What was lost, judged; an artifact that is not sound fails first. None while there is nothing to judge."""
        if self.failure:
            return "fail"
        return self.retention.verdict if self.retention else None

    def score(self, category: str) -> CategoryScore | None:
        """The row's score in one category."""
        scores = self.measurement.evaluation.categories if self.measurement else []
        return next((score for score in scores if score.category == category), None)

    def kept(self, category: str) -> CategoryRetention | None:
        """What the row kept of the baseline in one category."""
        kept = self.retention.categories if self.retention else []
        return next((one for one in kept if one.category == category), None)

    @property
    def serving(self) -> ServingRecord | None:
        """See `ServedModel.serving`."""
        return self.measurement.serving if self.measurement else None


_OF_THE_BASELINE = ("prepare", "soundness", "measure:baseline")
"""Stages that are the baseline's own; what fails there is no artifact's fault."""


def baseline_row(results: Mapping[str, StageResult], measured: list[SoundnessCheck]) -> Row:
    """The unquantized model's row.

    Args:
        results: Of all stages so far.
        measured: What its measurement said of its soundness; the checkpoint's checks come from the stage.
    """
    asked = _record(results, "soundness")
    measurement = _record(results, "measure:baseline")
    checkpoint = _record(results, "prepare")
    return Row(
        name="baseline",
        method=UNQUANTIZED,
        checkpoint=CheckpointRecord.model_validate(checkpoint) if checkpoint else None,
        measurement=MeasurementRecord.model_validate(measurement) if measurement else None,
        soundness=[*(SoundnessRecord.model_validate(asked).checks if asked else []), *measured],
        failure=_failure(results, *_OF_THE_BASELINE),
    )


def artifact_row(
    name: str,
    method: str,
    results: Mapping[str, StageResult],
    comparison: Comparison | None,
    same_dtype: Comparison | None = None,
) -> Row:
    """One artifact's row, or that of the baseline in another dtype."""
    artifact, inspection, measurement = (
        _record(results, f"{kind}:{name}") for kind in ("quantize", "inspect", "measure")
    )
    return Row(
        name=name,
        method=method,
        artifact=ArtifactRecord.model_validate(artifact) if artifact else None,
        inspection=InspectionRecord.model_validate(inspection) if inspection else None,
        measurement=MeasurementRecord.model_validate(measurement) if measurement else None,
        retention=comparison.retention if comparison else None,
        characterization=comparison.characterization if comparison else None,
        token_agreement=comparison.token_agreement if comparison else None,
        verbosity=comparison.verbosity if comparison else None,
        quantization=same_dtype.retention if same_dtype else None,
        **_fault(results, f"quantize:{name}", f"inspect:{name}", f"measure:{name}"),
    )


def with_shared_proofs(rows: Sequence[Row]) -> list[Row]:
    """The rows; one whose server was not asked itself has the proofs of the first that is alike, each with its name."""
    proved: dict[ProofScope, Row] = {}
    for row in rows:
        if row.serving and row.serving.proves:
            proved.setdefault(row.serving.proves, row)
    return [_with_proofs_of(proved, row) for row in rows]


def _with_proofs_of(proved: Mapping[ProofScope, Row], row: Row) -> Row:
    if row.measurement is None or not row.measurement.serving.scheduling_left:
        return row
    serving = row.measurement.serving
    other = proved.get(serving.proof_scope) if serving.proof_scope else None
    if other is None or other.serving is None:
        return row
    shared = [
        check.model_copy(
            update={
                "proved_on": other.name,
                "reason": f"proved on the server of {other.name}, which runs the same kernel: {check.reason}",
            }
        )
        for check in other.serving.scheduling_checks
    ]
    checked = serving.model_copy(update={"checks": [*shared, *serving.checks]})
    return row.model_copy(update={"measurement": row.measurement.model_copy(update={"serving": checked})})


def lowest_category(row: Row) -> CategoryRetention | None:
    """The category of which the row kept the smallest share above guessing, of those with something to keep."""
    categories = row.retention.categories if row.retention else []
    known = [kept for kept in categories if kept.kept is not None and math.isfinite(kept.kept)]
    return min(known, key=lambda kept: kept.kept or 0.0, default=None)


def verbosity_text(found: VerbosityRecord) -> str:
    """`its answers take 1.08 [1.03, 1.13] times the baseline's tokens (160 items)`."""
    bounds = "" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"its answers take {found.ratio:.2f}{bounds} times the baseline's tokens ({found.items:,} items)"


def concurrencies(rows: Sequence[ServedModel]) -> list[int]:
    """Levels of the closed loop under the first prompt mix at which any row was loaded, ascending."""
    levels = {point.concurrency for row in rows for point in row.load_points if point.concurrency is not None}
    return sorted(level for level in levels if any(row.closed_point(level) for row in rows))


def worst_verdict(rows: list[Row]) -> Verdict:
    """Of all artifacts together: one that fails fails all, and one that was not judged decides nothing."""
    verdicts = {row.verdict for row in rows if row.method != UNQUANTIZED}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "inconclusive"


def _record(results: Mapping[str, StageResult], stage: str) -> dict[str, object] | None:
    return results[stage].record if stage in results else None


def _fault(results: Mapping[str, StageResult], *stages: str) -> dict[str, str]:
    """The artifact's first failure, or the baseline's that it follows from."""
    for stage in stages:
        failure = results[stage].failure if stage in results else None
        if failure is None:
            continue
        baseline = [name for name in failure.because_of if name in _OF_THE_BASELINE]
        return {"blocked_by": baseline[0]} if baseline else {"failure": f"{stage}: {failure.what}"}
    return {}


def _failure(results: Mapping[str, StageResult], *stages: str) -> str | None:
    """The first failure on the row's way, which the later ones follow from."""
    for stage in stages:
        failure = results[stage].failure if stage in results else None
        if failure is not None:
            return f"{stage}: {failure.what}"
    return None
