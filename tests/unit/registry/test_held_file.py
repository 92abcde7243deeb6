"""What a file says holds as long as the process lives that wrote it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from registry.held_file import held_file, read_held

_HOLDER = """
import sys, time
from pathlib import Path
from registry.held_file import held_file
with held_file(Path(sys.argv[1]), "http://127.0.0.1:1/"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_it_says_so_within_the_block_and_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "address"
    assert read_held(path) is None
    with held_file(path, "a longer address"), held_file(path, "another's"):
        assert read_held(path) == "a longer address"
    assert read_held(path) is None
    assert not path.exists()
    path.write_text("left behind, longer than what comes")
    with held_file(path, "short"):
        assert read_held(path) == "short"


def test_of_one_that_was_killed_nothing_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "address"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert read_held(path) == "http://127.0.0.1:1/"
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert path.read_text() == "http://127.0.0.1:1/"
    assert read_held(path) is None
