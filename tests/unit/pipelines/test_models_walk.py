"""The walk that docs/models.md begins with, with tiny checkpoints."""

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny_families import make_tiny_of, make_tiny_reader
from tests.unit.pipelines.test_artifacts_import import RECIPE
from tests.walks import ROOT, take, walk_of

pytestmark = pytest.mark.slow


def test_the_walk_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mixtral = make_tiny_of("mixtral", tmp_path / "models" / "mixtral")
    olmoe = shutil.copytree(mixtral, tmp_path / "models" / "olmoe")
    config = json.loads((mixtral / "config.json").read_text())
    known_elsewhere = config | {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe"}
    (olmoe / "config.json").write_text(json.dumps(known_elsewhere))
    make_tiny_reader("mistral3", tmp_path / "models" / "mistral3")
    Path("recipe.yaml").write_text(RECIPE.format(source="models/mixtral"))
    capsys.readouterr()  # what making the models has said
    take(walk_of(ROOT / "docs" / "models.md"), capsys)
