"""Passwords are no part of what is kept of a tracking store's address."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from configs.errors import RequestError
from pipelines.recipe.run_config import TrackingConfig
from registry.tracking.address import (
    credentials_apart,
    password_of,
    scrubbed,
    sqlite_file,
    sqlite_uri,
    with_password,
    without_password,
)
from registry.tracking.names import TrackingUri

ADDRESSES = [
    ("http://me:pw@host:5000/path", "pw", "http://me:***@host:5000/path"),
    (
        "postgresql+psycopg2://me:p%40w%2F1@host/db?sslmode=require",
        "p@w/1",
        "postgresql+psycopg2://me:***@host/db?sslmode=require",
    ),
    # The password is a word of the address, too.
    ("mysql://db:db@db/db", "db", "mysql://db:***@db/db"),
    ("http://me@host", None, "http://me@host"),
    ("http://me:@host", "", "http://me:@host"),
    ("http://host:5000", None, "http://host:5000"),
    ("sqlite:////a:b@c/mlflow.db", None, "sqlite:////a:b@c/mlflow.db"),
    ("/a:b@c/runs", None, "/a:b@c/runs"),
    ("databricks", None, "databricks"),
]


@pytest.mark.parametrize(("uri", "password", "shown"), ADDRESSES)
def test_what_is_hidden_and_put_back(uri: str, password: str | None, shown: str) -> None:
    assert password_of(uri) == password
    assert without_password(uri) == without_password(shown) == shown
    assert with_password(uri, {}) == uri
    if password:
        assert password_of(shown) is None
        restored = with_password(shown, {"MLFLOW_TRACKING_PASSWORD": password})
        assert password_of(restored) == password
        assert without_password(restored) == shown
        with pytest.raises(RequestError, match="kept nowhere") as caught:
            with_password(shown, {})
        assert "MLFLOW_TRACKING_PASSWORD" in caught.value.remedy


@pytest.mark.parametrize(("uri", "password", "shown"), ADDRESSES)
def test_a_recipe_is_written_down_without_it(uri: str, password: str | None, shown: str) -> None:
    config = TrackingConfig(uri=uri)
    assert config.uri == uri
    for written in (config.model_dump()["uri"], config.model_dump(mode="json")["uri"]):
        assert written == shown
    assert f'"uri":"{shown}"' in config.model_dump_json()
    # What was written down can be run again.
    assert TrackingConfig.model_validate_json(config.model_dump_json()).uri == shown


def test_a_password_elsewhere_in_an_address_is_refused() -> None:
    for uri in ("postgresql://host/db?user=me&password=pw", "postgresql://host/db?sslpassword=pw"):
        with pytest.raises(ValueError, match="user:password@host"):
            TypeAdapter(TrackingUri).validate_python(uri)
    with pytest.raises(ValueError, match="no address"):
        TypeAdapter(TrackingUri).validate_python("http://[::1")


def test_servers_are_asked_without_a_password_in_their_address() -> None:
    assert credentials_apart("http://me:p%40w@host:1/x") == (
        "http://host:1/x",
        {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p@w"},
    )
    for uri in ("http://host:1", "postgresql://me:pw@host/db", "sqlite:///a.db"):
        assert credentials_apart(uri) == (uri, {})


def test_messages_of_others_are_scrubbed() -> None:
    uri = "postgresql://me:p%40w@host/db"
    assert scrubbed("cannot open postgresql://me:p%40w@host/db: p@w is wrong", uri) == (
        "cannot open postgresql://me:***@host/db: *** is wrong"
    )
    assert scrubbed("nothing here", "http://host") == "nothing here"


@pytest.mark.parametrize("path", ["/a/b.db", "/a b?x=1&y%41#c/mlflow.db", "/ü;[x]/mlflow.db"])
def test_files_of_any_name(path: str) -> None:
    assert sqlite_file(sqlite_uri(Path(path))) == Path(path)
    assert sqlite_file("http://host") is None
