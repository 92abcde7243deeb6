"""The campaign repeats itself by its seed, goes on where it stopped, counts, and fails when something is wrong."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.faults import campaign
from tests.faults.campaign import Campaign, deck, listing, table
from tests.faults.judge import Result
from tests.faults.kinds import KINDS
from tests.faults.lab import Lab
from tests.faults.trial import Kind, Missed, Trial

GOLDEN = Result({}, {}, {})


def test_a_seed_repeats_its_deck_and_begins_with_every_kind() -> None:
    first = [kind.name for kind in islice(deck(KINDS, 7), 200)]
    assert first == [kind.name for kind in islice(deck(KINDS, 7), 200)]
    assert first != [kind.name for kind in islice(deck(KINDS, 8), 200)]
    cheap = {kind.name for kind in KINDS if not kind.real}
    assert set(first[: len(cheap)]) == cheap
    assert sum(kind.real for kind in islice(deck(KINDS, 7), len(cheap) + 1)) == 1
    assert len({kind.name for kind in KINDS}) == len(KINDS)


class FakeLab:
    isolated = True
    left_processes = stop_all = restore = staticmethod(lambda *ignored: [])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Campaign]:
    def make(*injected: Callable[[Trial], None]) -> Campaign:
        kinds = tuple(Kind(f"test: {number}", 1.0, inject) for number, inject in enumerate(injected))
        monkeypatch.setattr(campaign, "KINDS", kinds)
        monkeypatch.setattr(Campaign, "_undisturbed", lambda self: GOLDEN)
        return Campaign(cast(Lab, FakeLab()), 1, tmp_path)

    return make


def finds(kind: Any) -> Callable[[Trial], None]:
    return lambda trial: trial.find(kind, "planted")


def breaks(trial: Trial) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("inject", "code", "listed"),
    [
        (lambda trial: None, 0, False),
        (finds("unexplained"), 0, True),
        (finds("left behind"), 1, True),
        (finds("lost"), 1, True),
        (finds("wrong"), 1, True),
        (breaks, 1, True),
    ],
)
def test_the_exit_code_and_the_list_tell(
    made: Callable[..., Campaign],
    capsys: pytest.CaptureFixture[str],
    inject: Callable[[Trial], None],
    code: int,
    listed: bool,
) -> None:
    assert made(inject).run(count=2, minutes=1) == code
    assert ("--seed 1 --only 0" in capsys.readouterr().out) == listed


def test_a_campaign_goes_on_where_it_stopped(made: Callable[..., Campaign], tmp_path: Path) -> None:
    tried: list[int] = []
    count = SimpleNamespace(calls=0)

    def inject(trial: Trial) -> None:
        count.calls += 1
        tried.append(trial.rng.randrange(10**9))

    assert made(inject).run(count=3, minutes=1) == 0
    assert made(inject).run(count=5, minutes=1) == 0
    assert count.calls == len(set(tried)) == 5
    again = made(inject)
    again.run(count=5, minutes=1, only=2)
    assert tried[-1] == tried[2]
    again.forget()
    assert again.run(count=1, minutes=1) == 0
    assert len((tmp_path / "seed-1.jsonl").read_text().splitlines()) == 1


def test_what_never_came_is_no_injected_fault(
    made: Callable[..., Campaign], capsys: pytest.CaptureFixture[str]
) -> None:
    def inject(trial: Trial) -> None:
        raise Missed("the run ended before")

    assert made(inject).run(count=1, minutes=1) == 0
    assert "not injected" in capsys.readouterr().out


def test_the_table_counts_by_group() -> None:
    known = [
        {"number": 0, "kind": "kills: run", "class": "survived", "refused": False, "story": []},
        {"number": 1, "kind": "kills: run", "class": "wrong", "findings": [["wrong", "0.51"]], "story": []},
        {"number": 2, "kind": "bytes: x", "class": "survived", "refused": True, "story": []},
    ]
    told = table(known).splitlines()
    assert told[2].split() == ["kills", "2", "1", "0", "0", "0", "1"]
    assert told[4].split() == ["all", "3", "2", "0", "0", "0", "1"]
    assert "1 were answered by an explained refusal" in told[5]
    assert listing(known, 3) == "wrong: kills: run; --seed 3 --only 1: 0.51"
