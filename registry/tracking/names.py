"""Names and addresses that MLflow takes, known before work: it would refuse others when everything is measured.

The rules are those of mlflow/utils/validation.py (3.17) and of the columns of its database, without importing it, which
takes seconds; a test holds them against MLflow's own.
"""

import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, PlainSerializer

from configs.quantities import Label
from registry.tracking.address import without_password

_LONGEST_NAME = 250
_REFUSED = "/:'\""
"""Of a registered model: the first two by MLflow, quotes by the language that it searches models with."""
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*):")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SCHEMES = (*_DATABASES, "http", "https", "file", "databricks", "databricks-uc", "uc")


def _model_name(name: str) -> str:
    held = [character for character in _REFUSED if character in name]
    if held:
        raise ValueError(f"the name of a registered model cannot hold {' or '.join(held)}, which MLflow refuses")
    if not name.strip() or name == "." or name.startswith(".."):
        raise ValueError("the name of a registered model cannot be blank or `.`, or begin with `..`")
    return name


def _tracking_uri(uri: str) -> str:
    match = _SCHEME.match(uri)
    # `postgresql+psycopg2` names the driver too. Without a scheme it is a folder.
    if match and match["scheme"].partition("+")[0] not in _SCHEMES:
        raise ValueError(f"there is no tracking store {match['scheme']}: in MLflow, only {', '.join(_SCHEMES)}")
    return _without_password_in_query(uri) if match else uri


def _database_uri(uri: str) -> str:
    match = _SCHEME.match(uri)
    if not match or match["scheme"].partition("+")[0] not in _DATABASES or "://" not in uri:
        raise ValueError(f"it is no database's address, such as postgresql://user@host/name: {', '.join(_DATABASES)}")
    return _without_password_in_query(uri)


def _without_password_in_query(uri: str) -> str:
    try:
        query = urlsplit(uri).query
    except ValueError as error:
        raise ValueError(f"it is no address: {error}") from None
    if any("password" in key.casefold() for key, _ in parse_qsl(query, keep_blank_values=True)):
        raise ValueError("a password stands as user:password@host, where it is left out of what is kept and shown")
    return uri


ExperimentName = Annotated[Label, Field(max_length=_LONGEST_NAME, pattern=r"\S")]
RegisteredModelName = Annotated[Label, Field(max_length=_LONGEST_NAME), AfterValidator(_model_name)]
DatabaseUri = Annotated[Label, AfterValidator(_database_uri), PlainSerializer(without_password, return_type=str)]
TrackingUri = Annotated[Label, AfterValidator(_tracking_uri), PlainSerializer(without_password, return_type=str)]
"""Written anywhere, both are without their password."""
