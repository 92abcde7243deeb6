"""Addresses of tracking stores and ledgers: local files with any characters, and passwords that are kept nowhere.

An address is written into a run's config.json, its jobs, its record and MLflow's own parameters. A password in it is
not: `HIDDEN` stands in its place, and whoever opens the store takes it from the variable that MLflow has for it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from configs.errors import RequestError

PASSWORD_VARIABLE = "MLFLOW_TRACKING_PASSWORD"  # noqa: S105 - its name
"""MLflow reads it for servers; for databases it is read here."""
LEDGER_PASSWORD_VARIABLE = "QUANTBENCH_LEDGER_PASSWORD"  # noqa: S105 - its name
HIDDEN = "***"


def sqlite_uri(path: Path) -> str:
    """The tracking address of a local file, whatever characters its path has."""
    quoted = str(path).replace("%", "%25").replace("?", "%3F")
    # MLflow makes the folders of a plain address, and would make those of the quoted path.
    return f"{'sqlite' if quoted == str(path) else 'sqlite+pysqlite'}:///{quoted}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an address; None where it is no local file."""
    kind, _, path = uri.partition(":///")
    return Path(unquote(path)) if kind in ("sqlite", "sqlite+pysqlite") else None


def password_of(uri: str) -> str | None:
    """The password that an address holds, decoded; None where it holds none, or `HIDDEN`."""
    written = _written_password(uri)
    return None if written in (None, HIDDEN) else unquote(written or "")


def without_password(uri: str) -> str:
    """The address as it is shown and kept."""
    written = _written_password(uri)
    return uri if not written else uri.replace(f":{written}@", f":{HIDDEN}@", 1)


def with_password(
    uri: str, variables: Mapping[str, str] = os.environ, variable: str = PASSWORD_VARIABLE, key: str = "tracking.uri"
) -> str:
    """The address as the store is opened by it.

    Args:
        variable: Of `variables`, holds the password where the address hides it.
        key: Of the recipe, that the address is from.

    Raises:
        RequestError: Its password is hidden and the variable is not set.
    """
    if _written_password(uri) != HIDDEN:
        return uri
    password = variables.get(variable)
    if not password:
        raise RequestError(
            f"{key} {uri} stands without its password, which is kept nowhere",
            remedy=f"set {variable}, or write the address with its password into the recipe",
        )
    return uri.replace(f":{HIDDEN}@", f":{quote(password, safe='')}@", 1)


def is_server(uri: str) -> bool:
    """Whether MLflow answers there over HTTP."""
    return urlsplit(uri).scheme in ("http", "https")


def credentials_apart(uri: str) -> tuple[str, dict[str, str]]:
    """A server's address without who asks it, and MLflow's variables for that: it prints addresses as they are.

    Args:
        uri: With its password. A database's has no other place for it, and stays as it is.
    """
    parts = urlsplit(uri)
    if not is_server(uri) or parts.username is None:
        return uri, {}
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, {"MLFLOW_TRACKING_USERNAME": unquote(parts.username), PASSWORD_VARIABLE: unquote(parts.password or "")}


def scrubbed(text: str, uri: str) -> str:
    """A message of others without the password of an address, as it is written and as it is meant."""
    for secret in (_written_password(uri), password_of(uri)):
        if secret and secret != HIDDEN:
            text = text.replace(secret, HIDDEN)
    return text


def _written_password(uri: str) -> str | None:
    """As it stands in the address."""
    try:
        return urlsplit(uri).password if sqlite_file(uri) is None else None
    except ValueError:
        return None
