"""A trial that goes on: looks read what is new, places have no gap whatever the clock says, deletions alter nothing."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from configs.errors import StageError
from evals.judging import trial_judge
from evals.judging.pair_observations import observations_of
from evals.judging.shadow_verdict import judge_pairs
from evals.judging.trial_judge import TrialJudge
from evals.judging.verdict_config import VerdictConfig, verdict_digest
from registry import steady_clock
from registry.contracts import Pair
from registry.pair_database import PairDatabase, Trial, read_pairs_of, read_trial
from tests.shadow_pairs import answer, failed, pair, table_of

TRIAL = Trial("one", "sha256:a", "sha256:b")
CONFIG = VerdictConfig.model_validate({"metrics": {"errors": 0.2, "same": 0.5, "latency": 0.1}, "budget_pairs": 400})


def written(path: Path, pairs: list[Pair], trial: Trial = TRIAL, keep: timedelta | None = None) -> PairDatabase:
    with PairDatabase(path, keep) as database:
        for one in pairs:
            database.offer(one, trial)
    return database


def a_pair(number: int, at: datetime | None = None) -> Pair:
    sides = (answer(seconds=1 + number % 3), answer(seconds=1.0) if number % 5 else failed())
    made = pair(number, *sides, prompt_class=("", "code", "chat")[number % 3], same=number % 4 > 0)
    return made.model_copy(update={"at": at or datetime.now(UTC)})


def test_looks_add_up_to_what_one_look_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_judge, "_MOST_AT_ONCE", 7)
    path, reads = tmp_path / "pairs.db", []
    real = trial_judge.read_pairs_of

    def reading(*place: object, **bounds: int) -> object:
        table = real(*place, **bounds)  # type: ignore[arg-type]
        reads.append((bounds["place"], table.num_rows))
        return table

    monkeypatch.setattr(trial_judge, "read_pairs_of", reading)
    config = CONFIG.model_copy(update={"classes": "each", "least_class_pairs": 10, "alpha": 1e-6})
    judge, pairs = TrialJudge(path, "one", config), [a_pair(number) for number in range(60)]
    written(path, [])
    assert judge.look() is None, "there is nothing yet"
    for start, end in ((0, 20), (20, 21), (21, 60)):
        written(path, pairs[start:end])
        found = judge.look()
        assert found is not None and found.pairs == end
        assert judge.look() is None, "nothing is new"
    whole = judge_pairs(observations_of(table_of(pairs)), config, frozen_digest=verdict_digest(config), growing=True)
    assert found.outcome == "continue"
    assert found.metrics == whole.metrics and found.pairs_digest == whole.pairs_digest
    assert sum(rows for _, rows in reads) == 60, "each pair is read once"
    # Killed and started again, it finds the same.
    assert TrialJudge(path, "one", config).look() == found


def test_columns_join_with_classes_that_come_later() -> None:
    tables = [[a_pair(number) for number in numbers] for numbers in ((1, 4, 7), (0, 2, 5, 8), (3, 6))]
    joined = observations_of(table_of(tables[0]))
    for more in tables[1:]:
        joined = joined.followed_by(observations_of(table_of(more)))
    assert joined.class_names == ["code", "", "chat"]
    assert [joined.class_names[place] for place in joined.class_places] == [
        *["code"] * 3,
        *("", "chat", "chat", "chat"),
        *("", ""),
    ]
    assert np.array_equal(joined.numbers, [1, 4, 7, 0, 2, 5, 8, 3, 6])


def test_places_follow_the_writing_and_no_clock(tmp_path: Path) -> None:
    """The clock jumps back by a day amid a trial, pairs come twice, and two trials come mixed."""
    path, now, other = tmp_path / "pairs.db", datetime.now(UTC), Trial("two", "sha256:a", "sha256:c")
    with PairDatabase(path) as database:
        for number in range(10):
            at = now - timedelta(days=number > 4)
            database.offer(a_pair(number, at), TRIAL)
            database.offer(a_pair(number, at), TRIAL)
            database.offer(a_pair(number, at), other)
    assert database.written == 20
    for trial in ("one", "two"):
        table = read_pairs_of(path, trial)
        assert table["number"].to_pylist() == list(range(10))
        assert table["id"].to_pylist() == [f"p{number}" for number in range(10)]
    assert read_pairs_of(path, "one", place=8)["number"].to_pylist() == [8, 9]
    newest, first = read_trial(path), read_trial(path, "one")
    assert newest is not None and newest.trial == other
    assert first is not None and (first.pairs, first.deleted, first.verdict) == (10, 0, None)


def test_two_gateways_with_one_database_give_no_place_twice(tmp_path: Path) -> None:
    path = tmp_path / "pairs.db"
    with PairDatabase(path) as one, PairDatabase(path) as other:
        for number in range(300):
            (one if number % 2 else other).offer(a_pair(number), TRIAL)
    assert (one.written, other.written, one.dropped + other.dropped) == (150, 150, 0)
    assert read_pairs_of(path, "one")["number"].to_pylist() == list(range(300))


def test_what_was_deleted_changes_no_verdict_and_gives_no_place_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady_clock, "STEADY_SECONDS", 0.0)
    path, old = tmp_path / "pairs.db", datetime.now(UTC) - timedelta(days=2)
    undecided = CONFIG.model_copy(update={"alpha": 1e-6})
    written(path, [a_pair(number, old) for number in range(20)])
    judge = TrialJudge(path, "one", undecided)
    before = judge.look()
    assert before is not None and before.outcome == "continue"
    # All of them go, and new ones come.
    written(path, [a_pair(number) for number in range(20, 40)], keep=timedelta(days=1))
    kept = read_trial(path, "one")
    assert kept is not None and (kept.pairs, kept.deleted) == (40, 20)
    assert read_pairs_of(path, "one")["number"].to_pylist() == list(range(20, 40)), "no place is given twice"
    for one in (judge, TrialJudge(path, "one", undecided)):
        found = one.look()
        assert found is not None and found.outcome == "inconclusive"
        assert "20 pairs of it were deleted by `keep_days`" in found.reason


def test_what_was_decided_stays_decided(tmp_path: Path) -> None:
    path, old = tmp_path / "pairs.db", datetime.now(UTC) - timedelta(days=2)
    config = VerdictConfig.model_validate({"metrics": {"same": 0.5}})
    written(path, [pair(number).model_copy(update={"at": old}) for number in range(40)])
    passed = TrialJudge(path, "one", config).look()
    assert passed is not None and (passed.outcome, passed.pairs) == ("pass", 40)
    # Pairs that say the contrary, and the deletion of the first ones.
    worse = [pair(number, same=False).model_copy(update={"at": datetime.now(UTC)}) for number in range(40, 400)]
    written(path, worse, keep=timedelta(days=1))
    assert TrialJudge(path, "one", config).look() == passed


def test_a_budget_ends_the_reading(tmp_path: Path) -> None:
    path, config = tmp_path / "pairs.db", CONFIG.model_copy(update={"budget_pairs": 15, "alpha": 1e-6})
    written(path, [a_pair(number) for number in range(40)])
    found = TrialJudge(path, "one", config).look()
    assert found is not None and (found.outcome, found.pairs) == ("inconclusive", 15)


def test_a_database_that_is_none_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "pairs.db"
    path.write_text("nothing of the kind")
    with pytest.raises(StageError, match="holds no pairs that can be read"):
        TrialJudge(path, "one", CONFIG).look()
    path.unlink()
    written(path, [a_pair(1)])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE pairs SET pair = '{\"id\": 1}'")
    with pytest.raises(StageError, match="holds no pairs that can be read"):
        TrialJudge(path, "one", CONFIG).look()
