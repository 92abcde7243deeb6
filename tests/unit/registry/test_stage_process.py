"""A stage's note of how far it is: whole at any time, and one file."""

import json
from pathlib import Path

from registry.stage_process import StageClock


def test_each_note_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    clock = StageClock(tmp_path / "progress")
    for part, done, total in (("a part with a long name", 123456, 7890123), ("save", None, None), ("measure", 1, 2)):
        clock.progress(part, done, total)
        assert json.loads((tmp_path / "progress").read_text()) == {"part": part, "done": done, "total": total}
        assert clock.doing == part
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


def test_no_work_ends_for_want_of_a_place_for_the_note(tmp_path: Path) -> None:
    clock = StageClock(tmp_path / "nowhere" / "progress")
    clock.progress("save")
    assert clock.doing == "save"
