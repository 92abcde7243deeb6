"""Set-up with what a machine has: any Python of 3.9 or later; with or without pip, venv, uv, Python 3.11, a network."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import doctor
from tests.architecture.repository import ROOT
from tools import environment

SCRIPT = Path(environment.__file__)
UV = """\
#!/bin/sh
echo "$@" >>"$UV_LOG"
case "$1 $2" in
  --version*) echo "uv ${UV_STUB_VERSION:-0.13.8} (stub)" ;;
  "python find") [ -e "$UV_STUB_FOUND" ] && echo "$UV_STUB_FOUND" ;;
  "python install") echo "uv's own message" >&2; exit 2 ;;
  venv*) for last; do :; done; rm -rf "$last"; mkdir -p "$last/bin"; ln -s "$UV_STUB_PYTHON" "$last/bin/python" ;;
  "pip sync") exit "${UV_STUB_SYNC:-0}" ;;
esac
"""
"""Says yes to all, but for what a variable says; `python install` never succeeds, like a machine without a network."""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout whose uv, first on PATH, is the stub."""
    for name in ("Makefile", "pyproject.toml", "tools/environment.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "environments" / "main").mkdir(parents=True)
    (tmp_path / "environments" / "main" / "cpu.lock").write_text("numpy==2.2.6\n")
    uv = executable(tmp_path / "bin" / "uv", UV)
    monkeypatch.setenv("PATH", f"{uv.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("UV_LOG", str(tmp_path / "uv.log"))
    monkeypatch.setenv("UV_STUB_PYTHON", sys.executable)
    monkeypatch.setenv("UV_STUB_FOUND", "")
    monkeypatch.setenv("QB_DEVICE", "cpu")
    return tmp_path


@pytest.fixture
def here(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for what is called in this process."""
    monkeypatch.setattr(environment, "ROOT", tree)
    monkeypatch.setattr(environment, "VENV", tree / ".venv")
    monkeypatch.setattr(environment, "UV_FOLDER", tree / ".uv")
    return tree


def set_up(tree: Path, *arguments: str, python: str = sys.executable) -> tuple[int, str]:
    command = [python, str(tree / "tools" / "environment.py"), *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def uv_calls(tree: Path) -> list[str]:
    log = tree / "uv.log"
    calls = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [call for call in calls if call != "--version"]


def pythons_here() -> list[str]:
    """This one, and every other of the oldest version or later on PATH or in pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    found = [shutil.which(f"python3.{minor}") or "" for minor in range(9, 20)]
    found += [str(path) for path in sorted(pyenv.glob("versions/3.*/bin/python"))]
    program = f"import sys; print(sys.version_info >= {environment.OLDEST_STARTER})"
    return [sys.executable, *(path for path in found if environment.output_of([path, "-c", program]) == "True")]


def test_the_script_is_written_in_the_oldest_python_that_starts_it() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=environment.OLDEST_STARTER)


@pytest.mark.parametrize("python", pythons_here())
def test_every_python_here_starts_it(tree: Path, python: str) -> None:
    code, text = set_up(tree, "about", python=python)
    assert code == 0
    assert "starts the set-up" in text
    assert ".venv is not made yet" in text


def test_an_environment_is_made_once(tree: Path) -> None:
    code, text = set_up(tree, "install", "--quiet")
    assert code == 0, text
    assert [call.split(" --python")[0] for call in uv_calls(tree)][-3:] == [
        "venv --quiet --clear --seed",
        "pip sync",
        "pip install",
    ]
    assert set_up(tree, "install", "--quiet") == (0, "")
    assert uv_calls(tree) == []
    assert "is that of .venv: the set-up was started with it" in set_up(tree, "about")[1]
    assert (tree / ".venv" / doctor.PYTHON_NOTE).read_text() == "the set-up was started with it\n"


def test_what_was_cut_short_is_made_anew(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_STUB_SYNC", "1")
    code, text = set_up(tree, "install")
    assert code == 2
    assert "Is the network there? The same command goes on." in text
    monkeypatch.setenv("UV_STUB_SYNC", "0")
    uv_calls(tree)
    assert set_up(tree, "install")[0] == 0
    assert any(call.startswith("venv ") for call in uv_calls(tree))


def test_uv_finds_the_python_where_another_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = executable(here / "python3.11", "#!/bin/sh\necho .\n")
    monkeypatch.setenv("UV_STUB_FOUND", str(other))
    monkeypatch.setattr(environment.sys, "version_info", (3, 13, 0))
    chosen = environment.choose_python("uv")
    assert chosen is not None
    assert chosen[0] == str(other)
    assert chosen[1].startswith("uv found it; the set-up was started with Python ")
    executable(other, "#!/bin/sh\necho lzma\necho sqlite3\necho .\n")
    assert environment.choose_python("uv") is None
    assert f"not {other}: it was compiled without lzma, sqlite3" in capsys.readouterr().err


def test_this_python_has_what_the_engines_import(here: Path) -> None:
    assert environment.choose_python("uv") == (sys.executable, "the set-up was started with it")


def test_where_nothing_can_be_fetched_it_says_what_to_install(here: Path) -> None:
    with pytest.raises(environment.SetupError) as caught:
        environment.fetch_python("uv", dict(os.environ))
    assert "there is no Python 3.11, and uv could not fetch one" in str(caught.value)
    assert "Install Python 3.11 or name one: make QB_PYTHON=/path/to/python3.11" in str(caught.value)


def test_an_old_uv_gives_way_to_the_pinned_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(environment, "run", lambda command, *rest: ran.append(command))
    assert environment.bring_uv() == str(here / "bin" / "uv")
    environment.bring_uv(pinned=True)
    assert environment.UV in ran[0]
    monkeypatch.setenv("UV_STUB_VERSION", "0.8.24")
    assert environment.bring_uv() == str(here / ".uv" / "bin" / "uv")
    assert "is uv 0.8.24 (stub); 0.9 or later is needed" in capsys.readouterr().err
    assert environment.UV in ran[1]


def test_a_python_with_neither_pip_nor_venv_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    bare = executable(here / "python3", "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    monkeypatch.setattr(environment.sys, "executable", str(bare))
    with pytest.raises(environment.SetupError) as caught:
        environment.bring_uv()
    assert f"{bare} has neither pip nor venv" in str(caught.value)
    assert "apt install python3-venv" in str(caught.value)


def test_pip_s_settings_hold_for_uv_and_nothing_sends_packages_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = "global.index-url='https://mirror/simple'\\n:env:.cert='/ca.pem'\\nglobal.find-links='/wheels'\\n"
    monkeypatch.setattr(
        environment.sys, "executable", str(executable(here / "python3", f'#!/bin/sh\nprintf "{listing}"\n'))
    )
    for name in ("UV_DEFAULT_INDEX", "UV_FIND_LINKS", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_SYSTEM_PYTHON", "1")
    monkeypatch.setenv("UV_PYTHON", "3.13")
    variables = environment.uv_environment("cpu")
    assert variables["UV_DEFAULT_INDEX"] == "https://mirror/simple"
    assert variables["SSL_CERT_FILE"] == "/ca.pem"
    assert variables["UV_FIND_LINKS"] == "/wheels"
    assert not {"UV_SYSTEM_PYTHON", "UV_PYTHON"} & set(variables)
    assert "UV_FIND_LINKS" not in environment.uv_environment("cuda")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://user/simple")
    assert environment.uv_environment("cpu")["UV_DEFAULT_INDEX"] == "https://user/simple"


def test_make_says_which_python_it_wants(tree: Path) -> None:
    def make(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [str(shutil.which("make")), *arguments], cwd=tree, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, _, said = make("setup", "QB_PYTHON=/no/python")
    assert code == 2
    assert "error: QB_PYTHON=/no/python is no Python of 3.9 or later; install one or name one" in said
    code, text, _ = make("help", f"QB_PYTHON={sys.executable}")
    assert code == 0
    assert "make demo" in text
    assert f"({sys.executable}) starts the set-up" in text
    code, text, _ = make("help", "QB_PYTHON=/no/python")
    assert code == 0
    assert "make demo" in text
