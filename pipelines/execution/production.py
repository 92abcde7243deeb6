"""What production may serve or go back to: the objects that ledgers and MLflow's aliases name.

Whoever deletes by this must not be told too little: what cannot be read, or shows that rows are gone, is an error.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from configs.errors import QuantbenchError, StageError
from registry.ledger import Entry, Ledger, faults_of
from registry.tracking.address import sqlite_file, with_password, without_password
from registry.tracking.aliases import aliases_of, digests_of, models_in
from registry.tracking.rest import NoAnswerError

_ENDED_RAMPS = ("fail", "stop")
_APPROVED = ("request", "approve")
"""By its last word, what somebody decided or is to decide about."""


class RegisteredModel(NamedTuple):
    """A registered model, and where it is told of."""

    tracking: str
    """MLflow's address, as records hold it."""
    name: str
    ledger: str


def in_production(models: Iterable[RegisteredModel]) -> dict[str, str]:
    """Digest of an object -> what it is for.

    Raises:
        StageError: A ledger or MLflow cannot be read, or is not whole.
        RequestError: The hidden password of an address is not set.
    """
    wanted = set(models)
    rows = {uri: _rows(uri) for uri in sorted({one.ledger for one in wanted})}
    found: dict[str, str] = {}
    for uri in sorted({one.tracking for one in wanted}):
        ledgers = {one.ledger for one in wanted if one.tracking == uri}
        streams = {key: entries for ledger in sorted(ledgers) for key, entries in rows[ledger].items()}
        names = {one.name for one in wanted if one.tracking == uri}
        elsewhere = {one.name for one in wanted if one.tracking != uri} - names
        names |= {model for model, _ in streams} - elsewhere
        found = dict(_of_store(uri, names, streams)) | found
    return found


def _of_store(uri: str, names: set[str], streams: dict[tuple[str, str], list[Entry]]) -> Iterator[tuple[str, str]]:
    """What one MLflow and the ledgers beside it name; the nearer to production, the later."""
    whole = with_password(uri)
    there = _is_there(whole)
    if not there and any(model in names and stream.startswith("alias:") for model, stream in streams):
        raise _unread(f"MLflow's database {uri}", "it is gone, and the ledger names aliases in it")
    try:
        names |= set(models_in(whole)) if there and sqlite_file(whole) else set()
        versions = {name: digests_of(whole, name) if there else {} for name in sorted(names)}
        aliases = {name: aliases_of(whole, name) if there else {} for name in sorted(names)}
    except NoAnswerError as error:
        raise _unread(f"MLflow at {without_password(uri)}", str(error)) from error
    for (model, stream), entries in streams.items():
        kind, _, subject = stream.partition(":")
        last = entries[-1] if entries else None
        if last and kind == "ramp" and last.kind not in _ENDED_RAMPS and last.artifact:
            yield last.artifact, f"a ramp of {model}"
        if last and kind == "approval" and last.kind in _APPROVED:
            yield subject, f"approved for {model}" if last.kind == "approve" else f"approval is asked for {model}"
    for (model, stream), entries in streams.items():
        if stream.startswith("alias:") and entries:
            yield from _of_alias(f"{stream.partition(':')[2]} of {model}", entries, versions.get(model, {}))
    for name in sorted(names):
        for alias, version in aliases[name].items():
            if version in versions[name]:
                yield versions[name][version], f"{alias} of {name}"


def _of_alias(name: str, entries: list[Entry], versions: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Where an alias points by the ledger, and where it would be rolled back to."""
    last = entries[-1]
    for version, what in ((last.version_from, f"rollback of {name}"), (last.version_to, name)):
        # One version is one artifact; a row that somebody adopted from MLflow does not say which.
        told = {one.artifact for one in entries if one.artifact and one.version_to == version}
        yield from ((digest, what) for digest in sorted(told | {versions.get(version or "", "")}) if digest)


def _rows(uri: str) -> dict[tuple[str, str], list[Entry]]:
    """All streams of a ledger; none where nobody has made it yet."""
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return {}
    if file is not None and not file.stat().st_size:
        raise _unread(f"the ledger {file}", "it is empty")  # opening it would make it whole
    try:
        ledger = Ledger(uri)
        streams = ledger.streams()
        shown = {key: ledger.projected(*key) for key in streams}
    except QuantbenchError as error:
        raise StageError(error.what, remedy=f"nothing was deleted; {error.remedy}", blame="machine") from error
    faults = [
        fault
        for (model, stream), entries in streams.items()
        for fault in faults_of(entries, shown[model, stream])
        or ([f"{stream} of {model}: its rows are gone"] if not entries else [])
    ]
    if faults:
        raise _unread(f"the ledger {without_password(uri)}", "; ".join(faults[:3]))
    return streams


def _is_there(uri: str) -> bool:
    file = sqlite_file(uri)
    return file is None or file.exists()


def _unread(what: str, why: str) -> StageError:
    return StageError(
        f"{what} does not tell what production needs: {why}",
        remedy="nothing was deleted; see that it is there, whole and answers, then give the same command again. Where"
        " it is gone for good, remove the folders of the runs that name it",
        blame="machine",
    )
