"""Moves aliases: written into the ledger first, then shown in MLflow, whose aliases follow.

Where a crash came between, the next command puts MLflow right; where somebody moved an alias in MLflow itself, that is
told, and nothing is overwritten.
"""

from collections.abc import Callable
from typing import TypeVar

from configs.errors import RequestError, StageError
from registry.ledger import Entry, Ledger, MovedMeanwhileError
from registry.tracking.aliases import NoVersionError, alias_of, has_version, move_alias, tag_version
from registry.tracking.rest import NoAnswerError

_T = TypeVar("_T")


class AliasMoves:
    """The aliases of one registered model.

    Args:
        ledger: Who moved what.
        uri: Of MLflow's store, with its password.
        model: The registered model's name.
    """

    def __init__(self, ledger: Ledger, uri: str, model: str) -> None:
        self._ledger, self._uri, self._model = ledger, uri, model

    def there(self, alias: str) -> str | None:
        """The version that MLflow's alias points at."""
        return self.asked(lambda: alias_of(self._uri, self._model, alias))

    def reconciled(self, alias: str) -> Entry | None:
        """The alias's last row, MLflow's alias being where it says.

        Raises:
            RequestError: Somebody moved the alias in MLflow.
        """
        last, there = self._ledger.last(self._model, f"alias:{alias}"), self.there(alias)
        if last is None or there == last.version_to:
            return last
        # Behind, and where the row says that it was shown last: nobody but us has touched it.
        shown = self._ledger.projected(self._model, last.stream)
        if shown < last.sequence and there == self._version_of_row(last.stream, shown, last):
            self._show(last, alias)
            return last
        raise RequestError(
            f"{alias} of {self._model} points at version {there or 'none'} in MLflow, and the ledger says"
            f" {last.version_to or 'none'}: somebody moved it there",
            remedy=f"quantbench registry adopt {alias} takes their move into the ledger; or move it back in MLflow",
        )

    def _version_of_row(self, stream: str, sequence: int, last: Entry) -> str | None:
        """Where the alias was after a row; for 0, where it was before the first."""
        rows = {one.sequence: one for one in self._ledger.entries(self._model, stream)}
        if sequence in rows:
            return rows[sequence].version_to
        return rows.get(1, last).version_from

    def move(self, entry: Entry, after: Entry | None, alias: str) -> Entry:
        """Write a move and show it in MLflow.

        Raises:
            RequestError: Somebody else moved the alias meanwhile, or MLflow has no such version any more.
            StageError: A store does not answer.
        """
        version = entry.version_to
        if version is not None and not self.asked(lambda: has_version(self._uri, self._model, version)):
            raise RequestError(
                f"version {version} of {self._model} was deleted in MLflow",
                remedy="run its recipe again, which records what is missing, and promote that, or another",
            )
        written = self.append(entry, after)
        self._show(written, alias)
        return written

    def adopt(self, entry: Entry, after: Entry | None) -> Entry:
        """Write a move that was made in MLflow."""
        written = self.append(entry, after)
        self._ledger.set_projected(written)
        return written

    def append(self, entry: Entry, after: Entry | None) -> Entry:
        """Write a row.

        Raises:
            RequestError: `after` is not the last one any more.
        """
        try:
            return self._ledger.append(entry, after)
        except MovedMeanwhileError as error:
            raise RequestError(
                f"somebody else wrote meanwhile: {error}", remedy="see `registry history`, and decide again"
            ) from error

    def tag(self, version: str, tags: dict[str, str]) -> None:
        """Show of a version in MLflow what the ledger says of it."""
        self.asked(lambda: tag_version(self._uri, self._model, version, tags))

    def _show(self, entry: Entry, alias: str) -> None:
        """Put MLflow's alias where a row says, or where a later one says that was written meanwhile."""
        version = entry.version_to
        self.asked(lambda: move_alias(self._uri, self._model, alias, version))
        # Whoever is late has just overwritten a newer row's version, and puts it right here.
        last = self._ledger.last(self._model, entry.stream)
        if last is not None and last.sequence > entry.sequence:
            self._show(last, alias)
        else:
            self._ledger.set_projected(entry)

    def asked(self, question: Callable[[], _T]) -> _T:
        """What MLflow answers.

        Raises:
            StageError: It does not.
            RequestError: It has no such version any more.
        """
        try:
            return question()
        except NoVersionError as error:
            raise RequestError(
                f"{error}: it was deleted in MLflow",
                remedy="`quantbench registry adopt ALIAS` takes where MLflow's alias is now into the ledger",
            ) from error
        except NoAnswerError as error:
            raise StageError(
                f"MLflow does not answer for {self._model}: {error}",
                remedy="see that it is there and runs, then give the same command again: the next one shows in MLflow"
                " what the ledger holds",
                blame="machine",
            ) from error
