"""A folder of wheels in place of every index: by the real uv and pip, with tiny wheels and an index out of reach."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT
from tools import environment

UV = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


def write_wheel(folder: Path, name: str) -> Path:
    """A package of one module that says its name."""
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"NAME = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in on a machine whose index answers nobody, and whose caches are empty."""
    for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setattr(environment, "bring_uv", lambda pinned=False: UV)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    return tmp_path


def test_an_environment_is_filled_from_it_and_from_nowhere_else(
    unreachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(unreachable / "house", "tinyone")
    monkeypatch.setenv("QB_WHEELHOUSE", str(unreachable / "house"))
    lock = unreachable / "cpu.lock"
    lock.write_text("tinyone==1.0\n")
    environment.fill(unreachable / "made", lock, "cpu")
    python = str(unreachable / "made" / "bin" / "python")
    said = subprocess.run(
        [python, "-c", "import tinyone; print(tinyone.NAME)"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "tinyone\n"
    lock.write_text("tinyone==1.0\nnotthere==2.0\n")
    with pytest.raises(environment.SetupError, match="pip sync"):
        environment.fill(unreachable / "other", lock, "cpu")


def test_it_is_filled_with_what_the_lock_names(unreachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tinyone", "tinytwo", "other"):
        write_wheel(unreachable / "index", name)
    lock = unreachable / "environments" / "main" / "cpu.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("tinyone==1.0\n    # via nothing\ntinytwo==1.0\n")
    settings = {"VENV_PYTHON": Path(sys.executable), "UV": "tinyone==1.0", "SEEDS": ()}
    for name, value in settings.items():
        monkeypatch.setattr(environment, name, value)
    monkeypatch.setattr(environment, "install", lambda quiet: None)
    monkeypatch.setenv("QB_DEVICE", "cpu")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(unreachable / "index"))
    environment.make_wheelhouse(unreachable / "house")
    assert sorted(path.name[:7] for path in (unreachable / "house").iterdir()) == ["tinyone", "tinytwo"]
    # And what it was filled with fills it no more.
    monkeypatch.setenv("QB_WHEELHOUSE", str(unreachable / "house"))
    with pytest.raises(environment.SetupError, match="filled from an index"):
        environment.make_wheelhouse(unreachable / "house")


def test_an_empty_one_is_told_before_anything_is_made(unreachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unreachable / "house").mkdir()
    monkeypatch.setenv("QB_WHEELHOUSE", str(unreachable / "house"))
    with pytest.raises(environment.SetupError, match="holds no wheels"):
        environment.uv_environment("cpu")


def test_make_hands_it_on_and_pip_and_uv_ask_no_index(unreachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(unreachable / "house", "tinyone")
    makefile = "include Makefile\ntold:\n\t@echo $$QB_WHEELHOUSE\n"
    make = [str(shutil.which("make")), "-s", "-f", "-", "told", "WHEELHOUSE=somewhere"]
    told = subprocess.run(make, cwd=ROOT, input=makefile, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(ROOT / "somewhere")
    monkeypatch.setenv("QB_WHEELHOUSE", str(unreachable / "house"))
    for device in environment.DEVICES:
        found = environment.uv_environment(device)
        assert found["UV_FIND_LINKS"] == str(unreachable / "house")
        assert (found["UV_NO_INDEX"], found["UV_OFFLINE"]) == ("1", "1")
