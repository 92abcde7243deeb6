"""Pairs the items of two measurements of two runs, and keeps what came out: it takes seconds."""

from collections.abc import Callable

from configs.errors import QuantbenchError
from pipelines.planning.stages import STATISTICS_LIBRARIES, STATISTICS_VERSION, installed_versions
from pipelines.records.run_record import RunRecord
from pipelines.review.joining import Joined
from registry.contracts import EvaluationRecord, RetentionRecord, StageResult
from registry.sealed import DamagedFile
from registry.stage_cache import StageCache, StageKey
from registry.store import Store

MOST_PAIRED = 24
"""New comparisons at a time, the newest first; the next time goes on."""


class Pairing:
    """Compares measurements that are in the store.

    Args:
        store: Holds their items.
        cache: Keeps what came out.
        record_of: Reads a run of the workspace.
    """

    def __init__(self, store: Store, cache: StageCache, record_of: Callable[[str], RunRecord]) -> None:
        self._store, self._cache, self._record_of = store, cache, record_of
        self._said: dict[tuple[str, str], RetentionRecord | str] = {}

    def over(self, joined: Joined) -> Callable[[int, int], RetentionRecord | str]:
        """What answers for the models of these runs, by their indices."""
        left = MOST_PAIRED

        def paired(model: int, against: int) -> RetentionRecord | str:
            nonlocal left
            objects = _object(joined, model), _object(joined, against)
            if objects[0] is None or objects[1] is None:
                return "their items are not in this workspace"
            key = (objects[0], objects[1])
            if key not in self._said:
                known = self._kept(*key)
                if known is None and left <= 0:
                    return f"no more than {MOST_PAIRED} comparisons are paired at a time; look again"
                left -= known is None
                self._said[key] = known or self._paired(joined, model, against, key)
            return self._said[key]

        return paired

    def _kept(self, new: str, old: str) -> RetentionRecord | None:
        kept = self._cache.get(_key(new, old))
        return RetentionRecord.model_validate(kept.record) if kept else None

    def _paired(self, joined: Joined, model: int, against: int, objects: tuple[str, str]) -> RetentionRecord | str:
        from evals.judging.retention import compare  # imports scipy, a second

        try:
            new, old = self._evaluation(joined, model), self._evaluation(joined, against)
            folders = [self._store.open(digest) for digest in objects]
            found = compare(old, folders[1] / old.samples_file, new, folders[0] / new.samples_file)
        except QuantbenchError as error:
            return f"they do not pair: {error.what}"
        except (DamagedFile, FileNotFoundError, LookupError) as error:
            return f"they do not pair: {error}"
        result = StageResult(stage="regression", record=found.model_dump(mode="json"))
        self._cache.put(_key(*objects), "regression", result)
        return found

    def _evaluation(self, joined: Joined, model: int) -> EvaluationRecord:
        record = self._record_of(joined.runs.id[joined.models.run[model]])
        row = next(row for row in record.rows if row.name == joined.models.name[model])
        if row.measurement is None:
            raise LookupError(f"{row.name} of {record.run_id} was not measured")
        return row.measurement.evaluation


def _key(new: str, old: str) -> StageKey:
    return StageKey(
        stage="regression",
        stage_version=STATISTICS_VERSION,
        config={},
        inputs={"baseline": old, "artifact": new},
        libraries=installed_versions(STATISTICS_LIBRARIES),
    )


def _object(joined: Joined, model: int) -> str | None:
    run = joined.models.run[model]
    return joined.found[run].summary.measurements[model - joined.first[run]]
