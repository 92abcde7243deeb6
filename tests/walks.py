"""The walk that a document begins with: commands of ours, each with what it prints."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from pipelines.cli import main


def walk_of(document: Path) -> list[tuple[str, str]]:
    """The commands of the document's first block that begins with one, each with what it prints."""
    block = re.search(r"^```\n(\$ .*?)^```$", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    return re.findall(r"^\$ quantbench (.*)\n((?:(?!\$ ).*\n)*)", block.group(1), flags=re.MULTILINE)


def take(walk: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    """Run each command here and compare what it prints; `...` stands for anything."""
    assert len(walk) >= 3
    for command, printed in walk:
        code = main(shlex.split(command))
        said = capsys.readouterr()
        got = said.err + said.out
        assert doctest.OutputChecker().check_output(printed, got, doctest.ELLIPSIS), f"$ quantbench {command}\n{got}"
        if "verdict: " in printed:
            assert code in (0, 1, 4), f"$ quantbench {command}: {code}"
        else:
            assert (code == 0) == ("error:" not in printed), f"$ quantbench {command}: {code}"
