"""What real MLflow's aliases point at stays, in a local database and on a server; with it away, everything does."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from configs.errors import StageError
from pipelines.execution.housekeeping import Wish, collect
from pipelines.planning.garbage import Asked
from registry.tracking.address import sqlite_uri
from tests.integration.test_mlflow_server import Lab
from tests.mlflow_server import mlflow_server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.mark.parametrize("where", ["database", pytest.param("server", marks=pytest.mark.service)])
def test_an_alias_that_mlflow_moved_keeps_its_artifact(tmp_path: Path, where: str) -> None:
    wish = Wish(Asked(keep_runs=1))
    with ExitStack() as stack:
        uri = sqlite_uri(tmp_path / "mlflow.db")
        if where == "server":
            uri, _ = stack.enter_context(mlflow_server(tmp_path / "server"))
        lab = Lab(tmp_path, uri)
        assert "registered model" in lab.record()
        model = str(lab.tracking.registered_model)
        made = {row.name: row.digest for row in lab.run.rows if row.digest}
        version = next(one for one in lab.versions() if one.tags["quantbench.digest"] == made["int8"])
        lab.client.set_registered_model_alias(model, "production", version.version)
        told = collect(lab.workspace, wish, lambda _: None)
        assert [one.why for one in told.kept] == [f"production of {model}"]
        store = lab.workspace.store
        assert [name for name, digest in made.items() if store.is_complete(digest)] == ["int8"]
    if where == "database":
        (tmp_path / "mlflow.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(StageError, match="does not tell what production needs"):
        collect(lab.workspace, wish, lambda _: None)
    assert store.is_complete(made["int8"] or "")
