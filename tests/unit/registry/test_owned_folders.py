"""A folder goes with its owner, however that ends, and with nobody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry import owned_folders
from registry.owned_folders import owned_folder, remove_if_abandoned, sweep_abandoned

HOLDER = """
import sys, time
from pathlib import Path
from registry.owned_folders import owned_folder
with owned_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("half made")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_it_is_there_for_the_block(tmp_path: Path) -> None:
    with owned_folder(tmp_path / "new") as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_goes_with_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), owned_folder(tmp_path):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_there_where_its_making_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owned_folders.fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt), owned_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_it_may_be_renamed_away(tmp_path: Path) -> None:
    with owned_folder(tmp_path / "staging") as folder:
        folder.rename(tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_living_process_s_stays_and_a_killed_one_s_is_swept(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-P", "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    sweep_abandoned(tmp_path)
    remove_if_abandoned(folder)
    assert (folder / "file").exists()
    holder.kill()
    holder.wait()
    assert (folder / "file").exists()
    sweep_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_is_used_again_protects_nothing(tmp_path: Path) -> None:
    # As earlier versions named them: by the owner's process id, which now is another process.
    left = tmp_path / f"{os.getpid()}-abc"
    left.mkdir()
    sweep_abandoned(tmp_path)
    assert not left.exists()


def test_nothing_to_sweep(tmp_path: Path) -> None:
    sweep_abandoned(tmp_path / "none")
    remove_if_abandoned(tmp_path / "none")
