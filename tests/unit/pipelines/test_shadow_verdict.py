"""`quantbench shadow verdict`: what a user sees, the exit codes, and records that grow or are damaged."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.judging.verdict_config import Limits, VerdictConfig
from pipelines.cli import main
from pipelines.execution import shadow_verdict
from registry.contracts import Pair
from registry.hashing import digest_of
from tests.shadow_pairs import answer, pair, write_pairs

SCORE = VerdictConfig(metrics=Limits(score=0.02))
UNDECIDED = range(100)
ENOUGH = range(600)


def recorded(folder: Path, pairs: list[Pair], config: VerdictConfig | None = SCORE, **told: Any) -> Path:
    """A replay's folder."""
    write_pairs(folder, pairs)
    frozen = config.model_dump(mode="json") if config else None
    told = {"finished_at": datetime.now(UTC).isoformat()} | told
    if config:
        told = {"verdict": frozen, "verdict_digest": digest_of(frozen)} | told
    (folder / "replay.json").write_text(json.dumps(told))
    return folder


def scored(numbers: range, worse: bool = False) -> list[Pair]:
    return [pair(number, answer(score=1), answer(score=0 if worse and number % 5 == 0 else 1)) for number in numbers]


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["shadow", "verdict", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, " ".join(captured.out.split()), captured.err


@pytest.mark.parametrize(
    ("pairs", "code", "outcome"),
    [
        (scored(ENOUGH), 0, "pass"),
        (scored(ENOUGH, worse=True), 1, "fail"),
        (scored(UNDECIDED), 4, "continue"),
        ([], 4, "inconclusive"),
    ],
    ids=["pass", "fail", "continue", "inconclusive"],
)
def test_the_exit_code_is_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pairs: list[Pair], code: int, outcome: str
) -> None:
    ended, text, _ = said(capsys, recorded(tmp_path, pairs))
    assert ended == code
    assert f"verdict: {outcome}, " in text and "EXPLORATORY" not in text


def test_json_is_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shadow", "verdict", str(recorded(tmp_path, scored(ENOUGH))), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["frozen"], told["pairs"], told["looks"]) == ("pass", True, 600, [600])


def test_limits_that_were_not_stored_before_never_end_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(tmp_path, scored(ENOUGH))
    (tmp_path / "mine.yaml").write_text("metrics: {score: 0.03}\n")
    ended, text, _ = said(capsys, folder, "--config", tmp_path / "mine.yaml")
    assert ended == 4
    assert "verdict: pass" in text and "EXPLORATORY: other limits were stored before the first pair" in text
    (tmp_path / "mine.yaml").write_text("metrics: {score: 0.02}\n")
    assert said(capsys, folder, "--config", tmp_path / "mine.yaml")[0] == 0, "the stored limits, written again"


def test_without_stored_limits_the_default_ones_explore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, text, _ = said(capsys, recorded(tmp_path, scored(ENOUGH, worse=True), None))
    assert ended == 4
    assert "verdict: fail" in text and "EXPLORATORY: no limits were stored" in text


def test_a_limit_changed_afterwards_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded(tmp_path, scored(ENOUGH, worse=True))
    path = folder / "replay.json"
    path.write_text(path.read_text().replace("0.02", "0.5"))
    ended, _, error = said(capsys, folder)
    assert ended == 3 and "is not the one that was stored before the first pair" in error


def test_a_verdict_of_another_version_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = {"metrics": {"charm": 0.1}}
    folder = recorded(tmp_path, scored(UNDECIDED), verdict=stored, verdict_digest=digest_of(stored))
    ended, _, error = said(capsys, folder)
    assert ended == 3 and "`verdict.metrics.charm` cannot be judged by in this version" in error


@pytest.mark.parametrize("text", ["", "[]", "{", '{"verdict": NaN}'])
def test_a_replay_json_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    folder = recorded(tmp_path, [])
    (folder / "replay.json").write_text(text)
    ended, _, error = said(capsys, folder)
    assert ended == 2 and "replay.json" in error and "remedy" in error


def test_a_folder_that_is_no_replay_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        ended, _, error = said(capsys, folder)
        assert ended == 2 and "holds no replay.json" in error and "quantbench shadow replay" in error


def test_a_flipped_byte_is_told_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded(tmp_path, scored(ENOUGH))
    path = folder / "pairs" / "part-000001.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 4] ^= 4
    path.write_bytes(damaged)
    ended, _, error = said(capsys, folder)
    assert ended == 3 and "part-000001.parquet" in error


def test_pairs_that_were_kept_twice_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A replay that was killed between writing a part and clearing its journal has them in both."""
    folder = recorded(tmp_path, scored(range(500)))
    parts = folder / "pairs"
    (parts / "part-000001.parquet").write_bytes((parts / "part-000000.parquet").read_bytes())
    main(["shadow", "verdict", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["pairs"] == 500


def test_a_hostile_class_name_writes_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [one.model_copy(update={"prompt_class": "\x1b[2J[red]x"}) for one in scored(ENOUGH)]
    config = VerdictConfig(metrics=Limits(score=0.02), classes="each")
    _, text, _ = said(capsys, recorded(tmp_path, pairs, config))
    assert "\x1b" not in text and "[red]x" in text


def test_watching_ends_when_it_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(tmp_path, scored(UNDECIDED), finished_at=None)
    slept: list[float] = []

    def more_pairs(seconds: float) -> None:
        slept.append(seconds)
        write_pairs(folder, scored(range(100 * len(slept), 100 * len(slept) + 100)))

    # Not the module's own: threads of other libraries sleep too.
    monkeypatch.setattr(shadow_verdict, "time", SimpleNamespace(sleep=more_pairs))
    ended, text, lines = said(capsys, folder, "--watch")
    assert ended == 0 and "verdict: pass" in text
    assert len(slept) == 2, "two points are decided by 254 pairs that never differ"
    assert [line.split(":")[0] for line in lines.splitlines()] == ["100 pairs", "200 pairs", "300 pairs"]


def test_watching_ends_with_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(tmp_path, scored(UNDECIDED), finished_at=None)
    monkeypatch.setattr(shadow_verdict, "time", SimpleNamespace(sleep=lambda _: recorded(folder, [])))
    ended, text, lines = said(capsys, folder, "--watch")
    assert ended == 4 and "verdict: continue" in text and len(lines.splitlines()) == 2


@pytest.mark.slow
def test_ctrl_c_ends_a_watch_without_a_traceback(tmp_path: Path) -> None:
    folder = recorded(tmp_path, scored(UNDECIDED), finished_at=None)
    command = [sys.executable, "-P", "-m", "pipelines.cli", "shadow", "verdict", str(folder), "--watch"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("100 pairs: continue")
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in rest and "interrupted" in rest
