"""The walk that a document begins with: commands, each with what it prints."""

import contextlib
import doctest
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import main

ROOT = Path(__file__).parents[1]
_BACKGROUND_SECONDS = 300.0


def walk_of(document: Path) -> list[tuple[str, str]]:
    """The commands of the document's first block that begins with one, each with what it prints."""
    block = re.search(r"^```\n(\$ .*?)^```$", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    taken = r"^\$ ((?:quantbench|python benchmarks/|kill|curl|head|tail) ?.*)\n((?:(?!\$ ).*\n)*)"
    return re.findall(taken, block.group(1), flags=re.MULTILINE)


def take(walk: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    """Run each command here and compare what it prints; `...` stands for anything.

    What ends with `&` goes on beside the others until `kill %1`, `%2` where it is the second, and what it prints is
    waited for.
    """
    assert len(walk) >= 3
    with contextlib.ExitStack() as stack:
        jobs: list[Beside] = []
        for command, printed in walk:
            if command.endswith(" &"):
                log = Path(f"job-{len(jobs) + 1}.log")
                jobs.append(stack.enter_context(_beside(command.removesuffix(" &"), log)))
                jobs[-1].wait_for(printed)
            elif command.startswith("kill %"):
                job = jobs[int(command.removeprefix("kill %")) - 1]
                assert job.end() == 0, job.said
                assert _same(printed, job.said[-len(printed) :]), job.said
            else:
                _take_one(command, printed, capsys)


def _take_one(command: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, _, rest = command.partition(" ")
    if program == "quantbench":
        code = main(shlex.split(rest))
        said = capsys.readouterr()
        got = said.err + said.out
    else:
        argv = _argv(command) if program == "python" else ["bash", "-o", "pipefail", "-c", _here(command)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_BACKGROUND_SECONDS)
        code, got = done.returncode, done.stderr + done.stdout
    assert _same(printed, got), f"$ {command}\n{got}"
    if " shadow verdict " in f" {command} ":
        assert code in (0, 1, 4), f"$ {command}: {code}"
    else:
        assert (code == 0) == ("error:" not in printed), f"$ {command}: {code}"


def _argv(command: str) -> list[str]:
    program, *rest = shlex.split(command)
    if program not in ("quantbench", "python"):
        return [program, *rest]
    rest = [str(ROOT / one) if one.startswith("benchmarks/") else one for one in rest]
    return [sys.executable, "-P", *(("-m", "pipelines.cli") if program == "quantbench" else ()), *rest]


def _here(command: str) -> str:
    """A document's address is the default one; here it is where OpenAI's client is told to ask."""
    return command.replace("http://127.0.0.1:8080", os.environ.get("OPENAI_BASE_URL", "").removesuffix("/v1"))


def _same(printed: str, got: str) -> bool:
    # Not all that is printed ends with a line's end, and lines that may follow may also be none.
    ended, wanted = (re.sub(r"\n\.\.\.\Z", "...", text.rstrip("\n")) + "\n" for text in (got, printed))
    return doctest.OutputChecker().check_output(wanted, ended, doctest.ELLIPSIS)


class Beside:
    """A command that goes on beside the others."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def said(self) -> str:
        """So far."""
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, printed: str) -> None:
        """Until it has printed that."""
        until = time.monotonic() + _BACKGROUND_SECONDS
        while not _same(printed, self.said):
            assert self._process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.1)

    def end(self) -> int:
        """As `kill` does it; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_BACKGROUND_SECONDS)


@contextlib.contextmanager
def _beside(command: str, log: Path) -> Iterator[Beside]:
    with log.open("wb") as file:
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(_argv(command), stdout=file, stderr=subprocess.STDOUT, env=env)
    try:
        yield Beside(process, log)
    finally:
        process.kill()
        process.wait()
