"""Names that MLflow refuses are refused before work, and no others: held against MLflow's own checks."""

import pytest
from pydantic import TypeAdapter, ValidationError

from registry.tracking.names import ExperimentName, RegisteredModelName, TrackingUri

NAMES = [
    "tiny",
    "Tiny model-1.2",
    "ß",
    "a%41b",
    "#x?",
    "...x",
    "team/tiny",
    "a:b",
    "",
    " ",
    ".",
    "..",
    "..x",
    "/x",
    "x" * 250,
]


def fault(kind: object, value: str) -> str | None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return None


@pytest.mark.parametrize("name", NAMES)
def test_registered_models_are_called_as_mlflow_lets_them(name: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    try:
        _validate_model_name(name)
        refused = False
    except MlflowException:
        refused = True
    assert (fault(RegisteredModelName, name) is not None) == refused


def test_the_characters_are_named() -> None:
    assert fault(RegisteredModelName, "team/tiny") == (
        "Value error, the name of a registered model cannot hold /, which MLflow refuses"
    )
    assert "hold : or '" in (fault(RegisteredModelName, "it's:1") or "")
    assert fault(RegisteredModelName, "x" * 251) and fault(RegisteredModelName, "a\nb")


@pytest.mark.parametrize(
    ("name", "sound"), [("quantbench", True), ("team/runs: 1", True), ("", False), ("  ", False), ("x" * 251, False)]
)
def test_experiments_have_a_name(name: str, sound: bool) -> None:
    assert (fault(ExperimentName, name) is None) == sound


@pytest.mark.parametrize(
    "uri", ["sqlite:///a.db", "http://127.0.0.1:5000", "postgresql+psycopg2://u@h/d", "/a/b", "runs", "databricks"]
)
def test_stores_that_mlflow_has(uri: str) -> None:
    assert fault(TrackingUri, uri) is None


@pytest.mark.parametrize("uri", ["sqllite:///a.db", "localhost:5000", "ftp://x"])
def test_stores_that_it_has_not_are_refused(uri: str) -> None:
    assert "there is no tracking store" in (fault(TrackingUri, uri) or "")
