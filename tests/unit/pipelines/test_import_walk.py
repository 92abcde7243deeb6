"""The walk that docs/import.md begins with, with a tiny checkpoint."""

from pathlib import Path

import pytest

from tests.imported_artifacts import as_gptq
from tests.tiny_llama import make_tiny_llama
from tests.unit.pipelines.test_artifacts_import import RECIPE
from tests.walks import ROOT, take, walk_of


def test_the_walk_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    as_gptq(make_tiny_llama(tmp_path / "source"), tmp_path / "theirs")
    Path("recipe.yaml").write_text(RECIPE.format(source=tmp_path / "source").replace("smoke", "demo"))
    take(walk_of(ROOT / "docs/import.md"), capsys)
