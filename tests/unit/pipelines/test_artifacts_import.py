"""`artifacts import`: what is said of a checkpoint, and how a recipe gets an entry."""

import json
from pathlib import Path

import pytest

from configs.loading import load_yaml_model
from pipelines.cli import main
from pipelines.recipe.run_config import RunConfig
from registry.contracts.base import format_of
from tests.imported_artifacts import as_gptq
from tests.tiny_llama import make_tiny_llama

RECIPE = """\
version: 1
name: mine
source: {{kind: folder, path: {source}}}
calibration: {{source: self}}
# What is compared:
methods:  # one artifact each
    nf4: {{method: bnb_nf4}}
    int8:
        method: bnb_int8

# Asked of all:
evaluation: {{suite: smoke}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source and what somebody made of it."""
    place = tmp_path_factory.mktemp("models")
    source = make_tiny_llama(place / "source")
    return source, as_gptq(source, place / "Tiny Llama_GPTQ.v2")


@pytest.fixture
def recipe(models: tuple[Path, Path], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(source=models[0]))
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["artifacts", "import", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and "not an explained one" not in captured.err
    return code, captured.out + captured.err


def test_it_says_what_it_is(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, str(models[1]))
    assert code == 0
    assert "LlamaForCausalLM, gptq, 4 bits, groups of 64\n  14 Linears in 4.53 bits a weight" in text
    assert "read by vLLM" in text
    code, text = said(capsys, str(models[1]), "--json")
    told = json.loads(text)
    assert (told["name"], told["format"], told["group_size"]) == ("tiny-llama-gptq-v2", "gptq", 64)


def test_an_entry_is_put_behind_the_others(
    models: tuple[Path, Path], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = recipe.read_text().splitlines()
    code, text = said(capsys, str(models[1]), "--recipe", str(recipe), "--name", "theirs")
    assert code == 0 and "entry theirs added" in text
    after = recipe.read_text().splitlines()
    (added,) = [line for line in after if line not in before]
    assert [line for line in after if line != added] == before
    config = load_yaml_model(recipe, RunConfig)
    assert list(config.methods) == ["nf4", "int8", "theirs"]
    assert format_of(config.methods["theirs"].method) == "gptq"
    assert list(recipe.parent.iterdir()) == [recipe]
    # The same name again is refused, and the file stays.
    code, text = said(capsys, str(models[1]), "--recipe", str(recipe), "--name", "theirs")
    assert code == 2 and "has an entry theirs already" in text
    assert recipe.read_text().splitlines() == after


def test_a_recipe_that_would_not_be_sound_stays_as_it_is(
    models: tuple[Path, Path], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = recipe.read_text()
    code, text = said(capsys, str(models[1]), "--recipe", str(recipe), "--name", "Not A Name")
    assert code == 2 and "remedy" in text
    assert recipe.read_text() == before
    assert list(recipe.parent.iterdir()) == [recipe]
    inline = before.replace(
        "methods:  # one artifact each\n    nf4: {method: bnb_nf4}\n", "methods: {nf4: {method: bnb_nf4}}\n"
    )
    inline = inline.replace("    int8:\n        method: bnb_int8\n", "")
    recipe.write_text(inline)
    code, text = said(capsys, str(models[1]), "--recipe", str(recipe), "--name", "theirs")
    assert code == 2 and "write it there yourself" in text and '"gptq_imported"' in text
    assert recipe.read_text() == inline


def test_what_is_no_quantized_checkpoint_is_refused(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, str(models[0]))
    assert code == 2 and "has no quantization_config" in text
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    code, text = said(capsys, str(tmp_path / "model.gguf"))
    assert code == 2 and "is GGUF" in text
    assert said(capsys)[0] == 2
