"""Environments made by the real uv from the real locks: the walk of docs/environments.md, and an interrupted sync."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import StageError
from pipelines.environments.definition import MAIN, environment_named, environment_names
from pipelines.environments.folders import folder_of, made
from pipelines.environments.making import check, in_use, sync
from quantizers.engines.autogptq_engine import LOGGER
from tests.architecture.repository import ROOT
from tests.walks import take, walk_of

pytestmark = pytest.mark.environment

BESIDE = ["airflow", "dagster", "litellm", "locust"]
"""Of orchestrators and of benchmarks: no stage of ours runs in them."""
OTHERS = [name for name in environment_names() if name not in (MAIN, *BESIDE)]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environments of this test's own; uv's cache stays the user's."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    monkeypatch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR", str(home / "uv")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", [*OTHERS, *BESIDE])
def test_it_is_as_its_lock_says_and_our_stages_import_there(name: str) -> None:
    environment = environment_named(name, "cpu")
    with in_use(environment, print):
        assert check(environment) == []


def test_its_files_are_those_of_uv_s_cache() -> None:
    """Links, where the two lie on one disk: a second environment with the same torch costs next to nothing."""
    with in_use(environment_named("autogptq", "cpu"), print) as python:
        (library,) = python.parent.parent.glob("lib/python*/site-packages/torch/lib/libtorch_cpu.so")
        cache = Path(os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "uv")
        if library.stat().st_dev != cache.expanduser().stat().st_dev or "UV_LINK_MODE" in os.environ:
            pytest.skip("uv's cache lies on another disk, or is told to copy")
        assert library.stat().st_nlink > 1


def test_our_own_is_as_its_lock_says() -> None:
    assert check(environment_named(MAIN, "cpu")) == []


@pytest.mark.parametrize("name", OTHERS)
def test_its_stage_imports_pydantic_and_nothing_else_of_the_installed(name: str) -> None:
    program = (
        "import sys, sysconfig; import quantizers.__main__; site = sysconfig.get_paths()['purelib'];"
        "print(*sorted({n.split('.')[0] for n, m in sys.modules.items() if (getattr(m, '__file__', None) or '')"
        ".startswith(site)}))"
    )
    with in_use(environment_named(name, "cpu"), print) as python:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([python, "-P", "-c", program], env=env, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split()) - {"_distutils_hack"}
    assert imported <= {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}


def test_autogptq_s_log_says_how_far_it_is() -> None:
    """It needs CUDA to be seen, so this looks the words up in its source."""
    program = f"import importlib, inspect; print(inspect.getsource(importlib.import_module({LOGGER!r})))"
    with in_use(environment_named("autogptq", "cpu"), print) as python:
        done = subprocess.run([python, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert 'logger.info(f"Start quantizing layer {i + 1}/{len(layers)}")' in done.stdout
    assert "logger = logging.getLogger(__name__)" in done.stdout


@pytest.mark.parametrize("document", ["environments.md", "engines.md"])
def test_the_walk_prints_what_the_document_says(
    document: str, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take(walk_of(ROOT / "docs" / document), capsys)


def test_a_sync_that_was_killed_is_gone_through_again_and_leaves_no_process(own_cache: Path) -> None:
    environment = environment_named("autogptq", "cpu")
    command = [sys.executable, "-P", "-m", "pipelines.cli", "env", "sync", "autogptq"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = folder_of(environment)
    deadline = time.monotonic() + 60
    while not (folder / "pyvenv.cfg").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert made(environment) is None
    while _working_in(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _working_in(folder)
    assert sync(environment, print).digest == environment.digest
    assert check(environment) == []


@pytest.mark.parametrize(
    ("pin", "offline", "said"),
    [("six==99.99.99", "", "its lock does not resolve"), ("six==1.17.0", "1", "the package index did not answer")],
)
def test_what_uv_says_of_a_lock_and_of_a_network(
    pin: str, offline: str, said: str, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file = tmp_path / "cpu.lock"
    lock_file.write_text(f"{pin}\n")
    if offline:
        monkeypatch.setenv("UV_OFFLINE", offline)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    small = environment_named("autoawq", "cpu")._replace(lock_file=lock_file, versions={"six": pin.partition("==")[2]})
    with pytest.raises(StageError, match=said):
        sync(small, print)
    assert made(small) is None


def test_a_disk_that_fills_up_in_the_middle_is_told(own_cache: Path) -> None:
    program = (
        "from configs.errors import StageError; from pipelines.environments import making\n"
        "from pipelines.environments.definition import environment_named\n"
        "one = environment_named('autogptq', 'cpu'); making._check_room = lambda *_: None\n"
        "try: making.sync(one, lambda text: None)\n"
        "except StageError as error: print(error.what.splitlines()[0], error.remedy, error.blame, sep='\\n')\n"
        "print(making.made(one))"
    )
    own_cache.mkdir()
    mounting = f'mount -t tmpfs -o size=60m none {own_cache} && exec "$0" -P -c "$1"'
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounting, sys.executable, program]
    done = subprocess.run(isolated, cwd=ROOT, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this machine lets nobody mount a small disk for a test")
    what, remedy, blame, left = done.stdout.splitlines()
    assert what.startswith("environment autogptq could not be made: ")
    assert "there is no room on the disk" in what
    assert remedy.startswith("free space there")
    assert (blame, left) == ("machine", "None")


def _working_in(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found
