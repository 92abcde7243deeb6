"""Versions of registered models, their tags and aliases, read and written without MLflow's import, which takes seconds.

Local databases are written as MLflow 3 writes them (store/model_registry/dbmodels/models.py), servers are asked over
their REST API, so that their webhooks fire. Others are not known here.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from registry.tracking.address import is_server, sqlite_file
from registry.tracking.rest import NoAnswerError, ask

_DIGEST = "quantbench.digest"
_LOCKED_SECONDS = 30.0
_LONGEST_TAG = 5000
_OBJECT = re.compile(r"/objects/([0-9a-f]{64})(?:/|$)")


class NoVersionError(NoAnswerError):
    """The registered model has no such version."""


def version_of(uri: str, model: str, digest: str) -> str | None:
    """The version of a registered model that an artifact is; None where there is none.

    Raises:
        NoAnswerError: The store does not answer.
    """
    if is_server(uri):
        wanted = {"filter": f"name = '{model}' AND tags.`{_DIGEST}` = '{digest}'"}
        found = (ask(uri, "model-versions/search", wanted) or {}).get("model_versions", [])
        return str(found[0]["version"]) if found else None
    with _database(uri) as connection:
        row = connection.execute(
            "SELECT v.version FROM model_versions v"
            " JOIN model_version_tags t ON t.name = v.name AND t.version = v.version"
            " WHERE v.name = ? AND t.key = ? AND t.value = ? AND v.current_stage != 'Deleted_Internal'"
            " ORDER BY v.version DESC",
            (model, _DIGEST, digest),
        ).fetchone()
    return None if row is None else str(row[0])


def versions_of(uri: str, model: str) -> dict[str, str]:
    """Digest of an artifact -> its version of a registered model, of all that have a digest.

    Raises:
        NoAnswerError: The store does not answer.
    """
    found: dict[str, str] = {}
    if is_server(uri):
        for version, digest, _ in _versions_on_server(uri, model):
            found.setdefault(digest, version)
        return found
    with _database(uri) as connection:
        rows = connection.execute(
            "SELECT t.value, v.version FROM model_versions v"
            " JOIN model_version_tags t ON t.name = v.name AND t.version = v.version"
            " WHERE v.name = ? AND t.key = ? AND v.current_stage != 'Deleted_Internal' ORDER BY v.version",
            (model, _DIGEST),
        )
        return {str(digest): str(version) for digest, version in rows}


def digests_of(uri: str, model: str) -> dict[str, str]:
    """Version of a registered model -> digest of the object that it is, by its tag, or by its source where it has none.

    Raises:
        NoAnswerError: The store does not answer.
    """
    found: dict[str, tuple[str, str]] = {}
    if is_server(uri):
        found = {version: (digest, source) for version, digest, source in _versions_on_server(uri, model)}
    else:
        with _database(uri) as connection:
            rows = connection.execute(
                "SELECT v.version, t.value, v.source FROM model_versions v LEFT JOIN model_version_tags t"
                " ON t.name = v.name AND t.version = v.version AND t.key = ? WHERE v.name = ?",
                (_DIGEST, model),
            )
            found = {str(version): (tag or "", source or "") for version, tag, source in rows}
    told = {version: tag or _digest_in(source) for version, (tag, source) in found.items()}
    return {version: digest for version, digest in told.items() if digest}


def _versions_on_server(uri: str, model: str) -> Iterator[tuple[str, str, str]]:
    """Version, digest by its tag or nothing, and source of all of a registered model, page by page."""
    page: dict[str, str] = {}
    while True:
        answer = ask(uri, "model-versions/search", {"filter": f"name = '{model}'", **page}) or {}
        for version in answer.get("model_versions", []):
            tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
            yield str(version["version"]), tags.get(_DIGEST, ""), str(version.get("source", ""))
        if not answer.get("next_page_token"):
            return
        page = {"page_token": answer["next_page_token"]}


def _digest_in(source: str) -> str:
    """Of a version whose source is a folder of a store."""
    name = _OBJECT.search(source)
    return f"sha256:{name[1]}" if name else ""


def aliases_of(uri: str, model: str) -> dict[str, str]:
    """All aliases of a registered model, each with its version; none where there is no such model.

    Raises:
        NoAnswerError: The store does not answer.
    """
    if is_server(uri):
        found = (ask(uri, "registered-models/get", {"name": model}) or {}).get("registered_model", {})
        return {one["alias"]: str(one["version"]) for one in found.get("aliases", [])}
    with _database(uri) as connection:
        rows = connection.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", (model,))
        return {str(alias): str(version) for alias, version in rows}


def models_in(file: str) -> list[str]:
    """The registered models of a local database, by its address.

    Raises:
        NoAnswerError: It cannot be read.
    """
    with _database(file) as connection:
        return [str(name) for (name,) in connection.execute("SELECT name FROM registered_models ORDER BY name")]


def alias_of(uri: str, model: str, alias: str) -> str | None:
    """The version that an alias points at; None for one that is not set."""
    if is_server(uri):
        place = {"name": model, "alias": alias}
        found = ask(uri, "registered-models/alias", place, absent=f"alias {alias} not found")
        return str(found["model_version"]["version"]) if found else None
    with _database(uri) as connection:
        row = connection.execute(
            "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?", (model, alias)
        ).fetchone()
    return None if row is None else str(row[0])


def move_alias(uri: str, model: str, alias: str, version: str | None) -> None:
    """Point an alias at a version, or take it away."""
    if is_server(uri):
        place = {"name": model, "alias": alias}
        if version is None:
            ask(uri, "registered-models/alias", place, "DELETE")
        elif ask(uri, "registered-models/alias", place | {"version": version}, "POST") is None:
            raise NoVersionError(f"there is no version {version} of {model}")
        return
    with _database(uri) as connection, connection:
        if version is None:
            connection.execute("DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?", (model, alias))
            return
        _check_version(connection, model, version)
        row = (int(version), model, alias)
        moved = connection.execute("UPDATE registered_model_aliases SET version = ? WHERE name = ? AND alias = ?", row)
        if not moved.rowcount:
            connection.execute("INSERT INTO registered_model_aliases (version, name, alias) VALUES (?, ?, ?)", row)


def has_version(uri: str, model: str, version: str) -> bool:
    """Whether a version is there, and was not deleted."""
    if is_server(uri):
        return ask(uri, "model-versions/get", {"name": model, "version": version}) is not None
    with _database(uri) as connection:
        try:
            _check_version(connection, model, version)
        except NoVersionError:
            return False
    return True


def tag_version(uri: str, model: str, version: str, tags: Mapping[str, str]) -> None:
    """Write tags of a version over those of the same keys; an empty value takes one away."""
    if is_server(uri):
        place = {"name": model, "version": version}
        for key, value in tags.items():
            if not value:
                ask(uri, "model-versions/delete-tag", place | {"key": key}, "DELETE")
            elif (
                ask(uri, "model-versions/set-tag", place | {"key": key, "value": value[:_LONGEST_TAG]}, "POST") is None
            ):
                raise NoVersionError(f"there is no version {version} of {model}")
        return
    with _database(uri) as connection, connection:
        _check_version(connection, model, version)
        for key, value in tags.items():
            mine = (model, int(version), key)
            connection.execute("DELETE FROM model_version_tags WHERE name = ? AND version = ? AND key = ?", mine)
            if value:
                connection.execute(
                    "INSERT INTO model_version_tags (name, version, key, value) VALUES (?, ?, ?, ?)",
                    (*mine, value[:_LONGEST_TAG]),
                )


def _check_version(connection: sqlite3.Connection, model: str, version: str) -> None:
    there = connection.execute(
        "SELECT 1 FROM model_versions WHERE name = ? AND version = ? AND current_stage != 'Deleted_Internal'",
        (model, version),
    ).fetchone()
    if there is None:
        raise NoVersionError(f"there is no version {version} of {model}")


@contextmanager
def _database(uri: str) -> Iterator[sqlite3.Connection]:
    path = sqlite_file(uri)
    if path is None:
        raise NoAnswerError("it is neither a server nor a local database")
    if not path.exists():
        raise NoAnswerError(f"there is no database {path}")
    try:
        with closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise NoAnswerError(str(error)) from error
