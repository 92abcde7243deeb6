"""What became worse in one run since the last accepted version, as the review tells it of all runs."""

from pipelines.execution.workspace import Workspace
from pipelines.records.run_outcome import ToldRegression
from pipelines.records.run_record import RESULT_FILE, RunRecord, result_files
from pipelines.review.joining import Found, Joined, joined
from pipelines.review.ledger_rows import LedgerRows
from pipelines.review.pairing import Pairing
from pipelines.review.regressions import regressions
from pipelines.review.summaries import read_summary
from registry.contracts import RetentionRecord
from registry.sealed import DamagedFile, read_sealed


def regressed(record: RunRecord, workspace: Workspace) -> tuple[list[ToldRegression], list[str]]:
    """What is worse beyond chance, or beyond a quantity's tolerance; and what kept that from being known, in words.

    Only runs of this recipe in this workspace are read: what it is compared with is one of them.

    Args:
        record: A run that ended.
        workspace: Holds it, and what it is compared with.
    """
    runs, unknown = _runs_of(record, workspace)
    if record.run_id not in (one.summary.run_id for one in runs):
        return [], unknown
    ledgers = LedgerRows([one.summary for one in runs], workspace.ledger_file)
    unknown += [notice.text for notice in ledgers.notices]
    whole = joined(runs, {})
    pairing = Pairing(
        workspace.store,
        workspace.cache,
        lambda run: read_sealed(workspace.root / "runs" / run / RESULT_FILE, RunRecord),
    )
    found = regressions(whole, ledgers.by_model, _PairedOfRun(whole, record.run_id, pairing))
    worse = [
        ToldRegression(artifact=whole.models.name[one.model], quantity=one.quantity, text=one.text)
        for one in found
        if one.change == "worse" and _run(whole, one.model) == record.run_id
    ]
    return worse, unknown


def _runs_of(record: RunRecord, workspace: Workspace) -> tuple[list[Found], list[str]]:
    """Of the recipe, the one that ended last first."""
    found, unread = [], []
    name = str(record.config["name"])
    for file in result_files(workspace.root):
        if f"-{name}-" not in file.run_id and file.run_id != record.run_id:
            continue
        try:
            found.append(Found(read_summary(file, None)))
        except FileNotFoundError:
            continue  # removed just now
        except (DamagedFile, OSError) as error:
            unread.append(f"{error}: nothing is compared with that run")
    return [one for one in found if one.summary.registered_model == record.registered_model], unread


class _PairedOfRun:
    """Pairs items, which takes seconds, for the models of one run alone."""

    def __init__(self, whole: Joined, run_id: str, pairing: Pairing) -> None:
        self._whole, self._run_id, self._paired = whole, run_id, pairing.over(whole)

    def __call__(self, model: int, against: int) -> RetentionRecord | str:
        if _run(self._whole, model) != self._run_id:
            return "of another run"
        return self._paired(model, against)


def _run(whole: Joined, model: int) -> str:
    return whole.found[whole.models.run[model]].summary.run_id
