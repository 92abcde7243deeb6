"""The rows of all ledgers that runs name, of the registered models that they made versions of."""

from collections.abc import Iterable
from pathlib import Path

from configs.errors import QuantbenchError
from pipelines.review.page_data import Notice
from pipelines.review.summaries import RunSummary
from registry.contracts.live_verdict import RecordedVerdict
from registry.ledger import Entry, Ledger, in_time
from registry.tracking.address import sqlite_file, sqlite_uri

MOST_ROWS = 2_000
"""On a page, the newest ones; `quantbench registry history` has all."""


class LedgerRows:
    """What was read of them, once.

    Args:
        summaries: Of all runs.
        own: The workspace's ledger, for runs that name none.
    """

    def __init__(self, summaries: Iterable[RunSummary], own: Path) -> None:
        wanted = dict.fromkeys((one.ledger or sqlite_uri(own), one.registered_model) for one in summaries)
        self.notices: list[Notice] = []
        self.by_model: dict[str, list[Entry]] = {}
        """Registered model -> its rows, each stream in its order."""
        self._ledgers: dict[str, Ledger] = {}
        self._verdicts: dict[str, list[tuple[Ledger, Entry]]] = {}
        """Candidate's stream -> rows, the oldest first."""
        for uri, model in wanted:
            self._read(uri, model)

    @property
    def rows(self) -> list[Entry]:
        """Oldest first: the newest `MOST_ROWS`, and the newest of each model, which decisions go on from."""
        rows = in_time(row for of_model in self.by_model.values() for row in of_model)
        heads = {row.model: row for row in rows}
        older = [row for row in rows[:-MOST_ROWS] if heads[row.model] is row]
        return [*older, *rows[-MOST_ROWS:]]

    def recorded_verdict(self, champion: str, candidate: str) -> RecordedVerdict | None:
        """The last one that somebody had recorded over two artifacts, by their digests."""
        for ledger, row in reversed(self._verdicts.get(f"verdict:{candidate}", [])):
            try:
                kept = RecordedVerdict.model_validate(ledger.kept(row.verdict))
            except (QuantbenchError, ValueError):
                continue  # `registry history --verify` tells
            if kept.champion == champion:
                return kept
        return None

    def _read(self, uri: str, model: str) -> None:
        file = sqlite_file(uri)
        if file is not None and not file.exists():
            return  # nobody decided anything yet; opening it would make it
        try:
            if uri not in self._ledgers:
                self._ledgers[uri] = Ledger(uri)
            rows = self._ledgers[uri].entries(model)
        except QuantbenchError as error:
            text = (
                f"{error.what}. The history of {model} and what it was compared with are missing here: {error.remedy}"
            )
            self.notices.append(Notice(about="ledger", text=text))
            return
        self.by_model.setdefault(model, []).extend(rows)
        for row in rows:
            if row.stream.startswith("verdict:"):
                self._verdicts.setdefault(row.stream, []).append((self._ledgers[uri], row))
