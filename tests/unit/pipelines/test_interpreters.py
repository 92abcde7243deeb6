"""Environments of their own: a key holds what is installed there, and a Python that is none is refused early."""

import sys
from pathlib import Path

import pytest

from configs.errors import RequestError
from pipelines.environments.definition import Environment
from pipelines.planning.interpreters import check_interpreter, versions_of
from pipelines.planning.preflight import check_environments
from pipelines.planning.stages import Stage, installed_versions, stages_of
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, run_config

LIBRARIES = ("GPTQModel-99.0", "torch-8.0+cpu", "lm_eval-7.0", "quantbench-0.1.0")


def made_environment(folder: Path, version: str = "3.11.7", libraries: tuple[str, ...] = LIBRARIES) -> Path:
    """A virtual environment whose Python is a program that must not run: it leaves a file `started`."""
    python = made_program(folder / "bin" / "python")
    (folder / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n")
    site = folder / "lib" / f"python{version.rpartition('.')[0]}" / "site-packages"
    for library in libraries:
        (site / f"{library}.dist-info").mkdir(parents=True)
    site.mkdir(parents=True, exist_ok=True)
    return python


def made_program(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\ntouch {path.parent / 'started'}\n")
    path.chmod(0o755)
    return path


def stages_with(environments: dict[str, str]) -> dict[str, Stage]:
    config = run_config(environments=environments)
    return {stage.name: stage for stage in stages_of(config, MACHINE, FINGERPRINTS)}


def test_this_python_answers_with_its_own_libraries() -> None:
    wanted = ("torch", "lm-eval", "Transformers", "no-such-distribution")
    assert versions_of(Path(sys.executable), wanted) == installed_versions(wanted)
    check_interpreter(Path(sys.executable), "pipelines.stage_programs.measure")


def test_keys_hold_the_versions_of_the_named_environment_and_nothing_is_started(tmp_path: Path) -> None:
    python = made_environment(tmp_path)
    stages = stages_with({"gptq": str(python), "prepare": str(python)})
    interpreters = {name: stage.interpreter for name, stage in stages.items() if stage.interpreter}
    assert interpreters == {"prepare": python, "quantize:gptq": python}
    key = stages["prepare"].key({})
    assert key is not None
    assert key.libraries == {"torch": "8.0+cpu"}
    assert versions_of(python, ("gptqmodel", "lm-eval")) == {"gptqmodel": "99.0", "lm-eval": "7.0"}
    check_environments({"gptq": python, "prepare": python}, list(stages.values()))
    assert [path.name for path in python.parent.iterdir()] == ["python"]


def test_an_environment_by_name_is_read_from_its_lock_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stages = stages_with({"prepare": "autoawq", "soundness": "main"})
    environment = stages["prepare"].interpreter
    assert isinstance(environment, Environment)
    key = stages["prepare"].key({})
    assert key is not None
    assert key.libraries == {name: environment.versions[name] for name in key.libraries}
    assert key.libraries["transformers"] == "4.51.3"
    assert stages["soundness"].interpreter is None
    check_environments({"prepare": Path("autoawq")}, list(stages.values()))
    assert list(tmp_path.iterdir()) == []


def test_a_method_brings_its_environment_and_a_recipe_may_name_another() -> None:
    own = {"methods": {"old": {"method": "awq_autoawq", "group_size": 64}}}
    for environments, expected in (
        ({}, "autoawq"),
        ({"awq_autoawq": "autogptq"}, "autogptq"),
        ({"quantize": "main"}, None),
    ):
        config = run_config(**own, environments=environments)
        stages = {stage.name: stage for stage in stages_of(config, MACHINE, FINGERPRINTS)}
        found = stages["quantize:old"].interpreter
        assert (found.name if isinstance(found, Environment) else found) == expected
        assert stages["inspect:old"].interpreter is None


def test_a_name_that_no_environment_has_is_refused() -> None:
    with pytest.raises(RequestError, match="no environment 'autoaqw'"):
        stages_with({"gptq": "autoaqw"})


def test_a_python_that_is_no_virtual_environment(tmp_path: Path) -> None:
    made_program(tmp_path / "bin" / "python3.12")
    python = tmp_path / "bin" / "python"
    python.symlink_to("python3.12")
    for version in ("3.12", "3.13"):
        (tmp_path / f"lib/python{version}/site-packages/torch-{version}.dist-info").mkdir(parents=True)
        (tmp_path / f"lib/python{version}/os.py").touch()
    assert versions_of(python, ("torch",)) == {"torch": "3.12"}


def test_libraries_of_the_system_count_where_the_environment_says_so(tmp_path: Path) -> None:
    python = made_environment(tmp_path / "venv", libraries=("torch-8.0",))
    system = tmp_path / "system"
    made_program(system / "bin" / "python3.11")
    for library in ("torch-7.0", "gguf-1.0"):
        (system / f"lib/python3.11/site-packages/{library}.dist-info").mkdir(parents=True)
    (system / "lib/python3.11/os.py").touch()
    (tmp_path / "venv/pyvenv.cfg").write_text(
        f"home = {system / 'bin'}\ninclude-system-site-packages = true\nversion = 3.11.7\n"
    )
    assert versions_of(python, ("torch", "gguf")) == {"torch": "8.0", "gguf": "1.0"}


def test_a_methods_environment_comes_before_its_stages(tmp_path: Path) -> None:
    stages = stages_with({"gptq": "/one/python", "quantize": "/other/python"})
    assert stages["quantize:gptq"].interpreter == Path("/one/python")
    assert stages["quantize:int8"].interpreter == Path("/other/python")
    assert stages["inspect:gptq"].interpreter is None


def test_a_program_that_is_no_python_is_refused_and_not_run(tmp_path: Path) -> None:
    program = made_program(tmp_path / "bin" / "python")
    with pytest.raises(RequestError) as caught:
        check_interpreter(program, "quantizers")
    assert caught.value.what == (
        f"`environments` names {program}, which is no environment's Python of 3.11 or later: no Python's libraries lie"
        " beside it"
    )
    assert "bin/python" in caught.value.remedy
    assert [path.name for path in program.parent.iterdir()] == ["python"]


@pytest.mark.parametrize(("version", "said"), [("3.9.2", "has Python 3.9"), ("x", "no Python's libraries")])
def test_a_python_that_is_too_old_or_none_is_refused(tmp_path: Path, version: str, said: str) -> None:
    python = made_environment(tmp_path)
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}\n")
    with pytest.raises(RequestError, match=said):
        check_interpreter(python, "quantizers")


def test_the_mark_of_an_environment_is_read_within_bounds(tmp_path: Path) -> None:
    python = made_environment(tmp_path)
    (tmp_path / "pyvenv.cfg").write_text("x" * 100_000)
    with pytest.raises(RequestError, match="is larger than 64 KiB"):
        check_interpreter(python, "quantizers")


def test_a_python_that_is_not_there_is_refused() -> None:
    environments = {"gptq": Path("/no/such/python")}
    stages = list(stages_with({"gptq": "/no/such/python"}).values())
    with pytest.raises(RequestError, match="there is no such file"):
        check_environments(environments, stages)


def test_an_environment_without_quantbench_is_refused(tmp_path: Path) -> None:
    python = made_environment(tmp_path, libraries=("torch-8.0",))
    with pytest.raises(RequestError, match="does not have Quantbench") as caught:
        check_interpreter(python, "pipelines.stage_programs.measure")
    assert f"{python} -m pip install" in caught.value.remedy


def test_a_name_that_is_neither_stage_nor_method_is_refused() -> None:
    with pytest.raises(RequestError, match="'gtpq'") as caught:
        check_environments({"gtpq": Path(sys.executable)}, [])
    assert "did you mean gptq?" in caught.value.remedy
