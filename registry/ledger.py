"""Who moved which alias of a registered model, when, why, and what stood behind it: an append-only table.

Aliases in MLflow are pointers that anybody may move, without a word of who and why. Here each move is a row whose
primary key is (model, stream, sequence): whoever moves says after which row, and of two that move at once one is
refused by the database, whatever machines they are on. A row holds the digest of the row before it, so that a row which
was edited, left out or put in later is found by `faults_of`.

A stream is an alias, the approval of one artifact, the ramp of an alias, or the verdicts over one artifact: approving
is a status of its own and moves nothing.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, IntegrityError, SQLAlchemyError

from configs.errors import RequestError, StageError
from configs.reading.json_text import parse_json
from registry.contracts.base import Record
from registry.hashing import digest_of
from registry.tracking.address import LEDGER_PASSWORD_VARIABLE, scrubbed, with_password, without_password

RampKind = Literal["begin", "advance", "pass", "fail", "pause", "hold", "resume", "restart", "stop"]
Kind = Literal["request", "approve", "reject", "promote", "rollback", "adopt", "verdict"] | RampKind
"""adopt: somebody moved the alias in MLflow itself, and the ledger was told so. verdict: somebody had one recorded."""

_LOCKED_SECONDS = 30.0
_TABLE = Table(
    "quantbench_ledger",
    MetaData(),
    Column("model", String(250), primary_key=True),
    Column("stream", String(250), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("at", String(40), nullable=False),
    Column("who", String(250), nullable=False),
    Column("why", Text, nullable=False),
    Column("version_from", String(32)),
    Column("version_to", String(32)),
    Column("name", String(250)),
    Column("artifact", String(80)),
    Column("verdict", String(80)),
    Column("override", Text),
    Column("previous", String(80)),
    Column("digest", String(80), nullable=False),
)


_PROJECTED = Table(
    "quantbench_projected",
    _TABLE.metadata,
    Column("model", String(250), primary_key=True),
    Column("stream", String(250), primary_key=True),
    Column("sequence", Integer, nullable=False),
)
"""How far MLflow's alias follows: a row that is not there yet is told from an alias that somebody else moved."""

_VERDICTS = Table(
    "quantbench_verdicts",
    _TABLE.metadata,
    Column("digest", String(80), primary_key=True),
    Column("verdict", Text, nullable=False),
)
"""What was decided by, under its digest, which rows hold."""


class Entry(Record):
    """One row."""

    model: str
    stream: str
    """`alias:<name>`, `ramp:<alias>`, or `approval:<artifact's digest>`, `verdict:<artifact's digest>`."""
    sequence: int
    """1 for the first of its stream."""
    kind: Kind
    at: datetime
    """By the clock of who wrote it; the order is that of `sequence`."""
    who: str
    why: str
    version_from: str | None = None
    version_to: str | None = None
    """Of the registered model; None where an alias was taken away."""
    name: str | None = None
    """What the run called the model that `version_to` is."""
    artifact: str | None = None
    """Digest of the artifact that `version_to` is."""
    verdict: str | None = None
    """Digest of the record that it was judged by."""
    override: str | None = None
    """Why it was moved although the policy forbids it."""
    previous: str | None = None
    """Digest of the row before; None for the first."""
    digest: str = ""
    """Of all the above."""

    def sealed(self) -> "Entry":
        """With the digest of what it holds."""
        return self.model_copy(update={"digest": self.own_digest})

    @property
    def own_digest(self) -> str:
        return digest_of(self.model_dump(mode="json", exclude={"digest", "schema_version"}))


class MovedMeanwhileError(Exception):
    """Somebody else wrote the row that was to be written: look again, and decide again."""


class Ledger:
    """The table, wherever it is.

    Args:
        uri: An SQLAlchemy address; a password in it is shown nowhere, and a hidden one is in
            QUANTBENCH_LEDGER_PASSWORD.

    Raises:
        RequestError: The hidden password is not set, or the database's driver not installed.
        StageError: The database does not answer.
    """

    def __init__(self, uri: str) -> None:
        self._shown = without_password(uri)
        self._whole = with_password(uri, variable=LEDGER_PASSWORD_VARIABLE, key="registry.ledger")
        waiting = {"timeout": _LOCKED_SECONDS} if self._whole.startswith("sqlite") else {}
        try:
            # SQLAlchemy's own default is the driver before psycopg 3.
            with_driver = self._whole.replace("postgresql://", "postgresql+psycopg://", 1)
            self._engine: Engine = create_engine(with_driver, connect_args=waiting)
        except ImportError as error:
            raise RequestError(
                f"the ledger {self._shown} needs a driver that is not installed: {error}",
                remedy="pip install 'quantbench[postgresql]' for PostgreSQL, or the other database's own package",
            ) from error
        with self._explained("opening"):
            self._make_tables()

    def _make_tables(self) -> None:
        try:
            _TABLE.metadata.create_all(self._engine)
        except DatabaseError:
            # Of two that open a new one, the later finds the other's tables, here or at its second look.
            _TABLE.metadata.create_all(self._engine)
        there = {column["name"] for column in inspect(self._engine).get_columns(_TABLE.name)}
        differing = sorted(there ^ {column.name for column in _TABLE.columns})
        if differing:
            raise StageError(
                f"the ledger {self._shown} is of another version: its rows differ by {', '.join(differing)}",
                remedy="use the version that wrote it, or name another database by `registry.ledger`",
                blame="machine",
            )

    def append(self, entry: Entry, after: Entry | None) -> Entry:
        """Write `entry` as the next row of its stream.

        Args:
            entry: `sequence`, `previous` and `digest` are filled in here.
            after: The row that was the last one when this was decided; None for a stream without any.

        Raises:
            MovedMeanwhileError: It is not the last one any more; nothing was written.
        """
        place = {"sequence": after.sequence + 1, "previous": after.digest} if after else {"sequence": 1}
        row = entry.model_copy(update=place).sealed()
        values = row.model_dump(mode="json", exclude={"schema_version"})
        try:
            with self._explained("writing"), self._engine.begin() as connection:
                connection.execute(insert(_TABLE).values(**values))
        except IntegrityError as error:
            raise MovedMeanwhileError(f"{entry.model}, {entry.stream}: row {row.sequence} is there") from error
        return row

    def last(self, model: str, stream: str) -> Entry | None:
        """The last row of a stream."""
        query = (
            select(_TABLE)
            .where(_TABLE.c.model == model, _TABLE.c.stream == stream)
            .order_by(_TABLE.c.sequence.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _entry(dict(row))

    def entries(self, model: str, stream: str | None = None) -> list[Entry]:
        """All rows of a model, or of one stream of it, each stream in its order."""
        query = select(_TABLE).where(_TABLE.c.model == model)
        if stream is not None:
            query = query.where(_TABLE.c.stream == stream)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(_TABLE.c.stream, _TABLE.c.sequence)).mappings().all()
        return [_entry(dict(row)) for row in rows]

    def streams(self) -> dict[tuple[str, str], list[Entry]]:
        """The rows of every (model, stream) that has any, or had them once; each in its order."""
        wanted = select(_PROJECTED.c.model, _PROJECTED.c.stream).distinct()
        with self._reading() as connection:
            shown = connection.execute(wanted).all()
            rows = connection.execute(select(_TABLE).order_by(_TABLE.c.sequence)).mappings().all()
        found: dict[tuple[str, str], list[Entry]] = {(model, stream): [] for model, stream in shown}
        for entry in (_entry(dict(row)) for row in rows):
            found.setdefault((entry.model, entry.stream), []).append(entry)
        return found

    def projected(self, model: str, stream: str) -> int:
        """Sequence of the row that MLflow's alias was last put to; 0 for none."""
        query = select(_PROJECTED.c.sequence).where(_PROJECTED.c.model == model, _PROJECTED.c.stream == stream)
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def set_projected(self, entry: Entry) -> None:
        """MLflow's alias is where this row says, or a later one."""
        mine = (_PROJECTED.c.model == entry.model, _PROJECTED.c.stream == entry.stream)
        values = {"model": entry.model, "stream": entry.stream, "sequence": entry.sequence}
        further = update(_PROJECTED).where(*mine, _PROJECTED.c.sequence < entry.sequence)
        try:
            with self._explained("writing"), self._engine.begin() as connection:
                connection.execute(insert(_PROJECTED).values(**values))
        except IntegrityError:
            with self._explained("writing"), self._engine.begin() as connection:
                connection.execute(further.values(sequence=entry.sequence))

    def keep_verdict(self, verdict: Any) -> str:
        """Keep what somebody decided by, as JSON; its digest, which is the same for the same verdict."""
        digest = digest_of(verdict)
        # Of two that write the same one, the later finds it there.
        with suppress(IntegrityError), self._explained("writing"), self._engine.begin() as connection:
            connection.execute(insert(_VERDICTS).values(digest=digest, verdict=json.dumps(verdict)))
        return digest

    def keep_record(self, record: Record) -> str:
        """The same of a record, as JSON holds it."""
        return self.keep_verdict(parse_json(record.model_dump_json()))

    def keeps(self, digest: str) -> bool:
        """Whether a verdict is there and is what it was."""
        return self._kept(digest) is not None

    def kept(self, digest: str | None) -> Any:
        """What `keep_verdict` kept.

        Raises:
            StageError: It is not there, or not what it was.
        """
        verdict = self._kept(digest)
        if verdict is None:
            raise StageError(
                f"the ledger {self._shown} does not hold what a row of it was decided by ({digest}), or it was changed",
                remedy="`quantbench registry history --verify` names the row; take the database back from a copy",
                blame="machine",
            )
        return verdict

    def _kept(self, digest: str | None) -> Any:
        query = select(_VERDICTS.c.verdict).where(_VERDICTS.c.digest == digest)
        with self._reading() as connection:
            text = connection.execute(query).scalar()
        try:
            verdict = parse_json(str(text))
        except ValueError:
            return None
        return verdict if digest_of(verdict) == digest else None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._explained("reading"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            why = scrubbed(str(error).partition("\n")[0], self._whole)
            raise StageError(
                f"{doing} the ledger {self._shown} failed: {why}",
                remedy="see that the database is there and answers, then give the same command again: a move is written"
                " whole or not at all",
                blame="machine",
            ) from error


def in_time(entries: Iterable[Entry]) -> list[Entry]:
    """Rows of several streams, oldest first: in the same order whoever reads them, and each stream in its own as far as
    clocks allow."""
    return sorted(entries, key=lambda row: (row.at, row.model, row.stream, row.sequence))


def newest_row(entries: Iterable[Entry]) -> Entry | None:
    """The last of them in time; None where there is none."""
    return next(reversed(in_time(entries)), None)


def faults_of(entries: list[Entry], projected: int = 0) -> list[str]:
    """What is wrong with the rows of one stream, in their order; empty for a chain that is whole.

    Args:
        entries: All of them.
        projected: Sequence of the row that MLflow's alias was last put to, or that was last written of a ramp. A chain
            does not show that its end was cut off; that a row was there once does.
    """
    found: list[str] = []
    before: Entry | None = None
    for place, entry in enumerate(entries, 1):
        name = f"{entry.stream}, row {entry.sequence}"
        if entry.sequence != place:
            found.append(f"{name}: row {place} is missing")
            return found
        if entry.digest != entry.own_digest:
            found.append(f"{name}: it was changed after it was written")
        if entry.previous != (before.digest if before else None):
            found.append(f"{name}: it does not follow the row before it")
        before = entry
    if before is not None and before.sequence < projected:
        found.append(f"{before.stream}: rows after {before.sequence} are missing: row {projected} was there")
    return found


def _entry(row: dict[str, Any]) -> Entry:
    return Entry.model_validate(row)
