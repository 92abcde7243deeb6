"""Environments of their own: a key holds what is installed there, and a Python that is none is refused early."""

import sys
from pathlib import Path

import pytest

from configs.errors import RequestError
from pipelines.planning.interpreters import check_interpreter, versions_of
from pipelines.planning.preflight import check_environments
from pipelines.planning.stages import Stage, installed_versions, stages_of
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, run_config

ANSWER = '[["quantizers", "pipelines"], {"GPTQModel": "99.0", "torch": "8.0", "lm_eval": "7.0"}]'


def made_interpreter(folder: Path, does: str) -> Path:
    """A program that is started as a Python; each start adds a line to `starts`."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho start >> {folder / 'starts'}\n{does}\n")
    path.chmod(0o755)
    return path


def stages_with(environments: dict[str, str]) -> dict[str, Stage]:
    config = run_config(environments=environments)
    return {stage.name: stage for stage in stages_of(config, MACHINE, FINGERPRINTS)}


def test_this_python_answers_with_its_own_libraries() -> None:
    wanted = ("torch", "lm-eval", "Transformers", "no-such-distribution")
    assert versions_of(Path(sys.executable), wanted) == installed_versions(wanted)
    check_interpreter(Path(sys.executable), "pipelines.stage_programs.measure")


def test_keys_hold_the_versions_of_the_named_environment_which_is_asked_once(tmp_path: Path) -> None:
    python = made_interpreter(tmp_path, f"echo '{ANSWER}'")
    stages = stages_with({"gptq": str(python), "prepare": str(python)})
    interpreters = {name: stage.interpreter for name, stage in stages.items() if stage.interpreter}
    assert interpreters == {"prepare": python, "quantize:gptq": python}
    key = stages["prepare"].key({})
    assert key is not None
    assert key.libraries == {"torch": "8.0"}
    assert versions_of(python, ("gptqmodel", "lm-eval")) == {"gptqmodel": "99.0", "lm-eval": "7.0"}
    check_environments({"gptq": python, "prepare": python}, list(stages.values()))
    assert (tmp_path / "starts").read_text().splitlines() == ["start"]


def test_a_methods_environment_comes_before_its_stages(tmp_path: Path) -> None:
    stages = stages_with({"gptq": "/one/python", "quantize": "/other/python"})
    assert stages["quantize:gptq"].interpreter == Path("/one/python")
    assert stages["quantize:int8"].interpreter == Path("/other/python")
    assert stages["inspect:gptq"].interpreter is None


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo 'unknown option -P' >&2; exit 2", "unknown option -P"),
        ("echo I am no Python", "does not answer as a Python does"),
        ("echo '[]'", "does not answer as a Python does"),
    ],
)
def test_a_program_that_is_no_python_is_refused(tmp_path: Path, does: str, said: str) -> None:
    python = made_interpreter(tmp_path, does)
    with pytest.raises(RequestError, match=said) as caught:
        check_interpreter(python, "quantizers")
    assert str(python) in caught.value.what
    assert "bin/python" in caught.value.remedy


def test_a_python_that_is_not_there_is_refused() -> None:
    environments = {"gptq": Path("/no/such/python")}
    stages = list(stages_with({"gptq": "/no/such/python"}).values())
    with pytest.raises(RequestError, match="No such file or directory"):
        check_environments(environments, stages)


def test_an_environment_without_quantbench_is_refused(tmp_path: Path) -> None:
    python = made_interpreter(tmp_path, "echo '[[], {}]'")
    with pytest.raises(RequestError, match="does not have Quantbench") as caught:
        check_interpreter(python, "pipelines.stage_programs.measure")
    assert f"{python} -m pip install" in caught.value.remedy


def test_a_name_that_is_neither_stage_nor_method_is_refused() -> None:
    with pytest.raises(RequestError, match="'gtpq'") as caught:
        check_environments({"gtpq": Path(sys.executable)}, [])
    assert "did you mean gptq?" in caught.value.remedy
