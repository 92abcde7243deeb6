"""What a policy that asks for a shadow verdict finds in the ledger, and the commands that write it there."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from evals.judging.verdict_config import VerdictConfig, verdict_digest
from pipelines.cli import main
from pipelines.decision.ramp import following_word
from pipelines.execution.shadow_evidence import Tried, record_verdict, shadow_outcome
from pipelines.execution.shadow_verdict import GATEWAY_FILE, PAIRS_FILE
from registry.contracts import GatewayRecord
from registry.ledger import Entry, Ledger
from registry.pair_database import PairDatabase, Trial
from registry.sealed import write_sealed
from registry.tracking.address import sqlite_uri
from tests.live_ramp import MODEL, FollowingGateway, moved
from tests.shadow_pairs import pair
from tests.unit.pipelines.test_gateway import Lab
from tests.unit.pipelines.test_ramp import verdict

TRIED = Tried("sha256:1", "sha256:2")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return sqlite_uri(tmp_path / "ledger.db")


def found(ledger: Ledger) -> tuple[str, str]:
    champion = ledger.last(MODEL, "alias:champion")
    outcome = shadow_outcome(ledger, MODEL, "shadow", "sha256:2", champion)
    return outcome.outcome, outcome.reason


def test_recorded_verdicts_count_beside_the_champion_that_there_is(uri: str) -> None:
    ledger = Ledger(uri)
    assert found(ledger) == ("pass", "nothing is champion yet, so there is nothing to be compared with")
    moved(ledger, "champion", "1")
    assert found(ledger)[0] == "inconclusive"
    record_verdict(ledger, MODEL, "alice", TRIED, verdict("pass"))
    assert found(ledger) == ("pass", "alice recorded pass: so it is, over 1,200 pairs")
    record_verdict(ledger, MODEL, "bob", TRIED, verdict("fail"))
    assert found(ledger)[0] == "fail", "the later one of two"
    record_verdict(ledger, MODEL, "bob", TRIED._replace(champion="sha256:9"), verdict("pass"))
    assert found(ledger)[0] == "fail", "of another champion"
    record_verdict(ledger, MODEL, "bob", TRIED, verdict("inconclusive"))
    assert found(ledger)[0] == "inconclusive"
    moved(ledger, "champion", "3")
    assert found(ledger) == (
        "inconclusive",
        "the ledger holds no verdict over it beside version 3, which is champion",
    )


def test_what_decides_nothing_is_not_recorded(uri: str) -> None:
    ledger = Ledger(uri)
    with pytest.raises(RequestError, match="not decided yet"):
        record_verdict(ledger, MODEL, "alice", TRIED, verdict("continue"))
    with pytest.raises(RequestError, match="not stored before the first pair"):
        record_verdict(ledger, MODEL, "alice", TRIED, verdict("pass", frozen=False))
    assert ledger.entries(MODEL) == []


def test_a_ramp_counts_when_it_has_ended(uri: str) -> None:
    async def run() -> None:
        ledger = Ledger(uri)
        moved(ledger, "champion", "1")
        moved(ledger, "shadow", "2")
        one = FollowingGateway(uri, "one", [0.1, 1.0])
        await one.look()
        one.judged.says("pass")
        await one.look()
        assert found(ledger)[0] == "inconclusive", "one step of two is not the ramp's end"
        one.judged.says("pass")
        await one.look()
        assert found(ledger)[0] == "pass"
        assert "its ramp ended, 100 %, step 2 of 2" in found(ledger)[1]
        # Begun anew and failed, it has failed.
        row = one.ramp.last()
        assert row is not None
        one.ramp.write(following_word(row.record, "restart"), row, "a person")
        await one.look()
        one.judged.says("fail")
        await one.look()
        assert found(ledger)[0] == "fail"
        record_verdict(ledger, MODEL, "alice", TRIED, verdict("pass"))
        assert found(ledger)[0] == "fail", "which of two words is the later one is a question of clocks"

    asyncio.run(run())


class Commands:
    """`quantbench shadow` over a workspace whose ledger has a ramp."""

    def __init__(self, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
        self.lab, self._capsys = lab, capsys

    def __call__(self, *argv: str) -> tuple[int, str]:
        code = main([*argv, "--workspace", str(self.lab.workspace.root)])
        out, err = self._capsys.readouterr()
        return code, out + err


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(Lab(tmp_path, monkeypatch), capsys)


def test_an_operator_holds_goes_on_begins_anew_and_stops(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = commands.lab
    code, said = commands("shadow", "ramp", "hold")
    assert (code, "no ramp of" in said) == (2, True)
    monkeypatch.setattr("tests.live_ramp.MODEL", lab.model)
    lab.move("champion", "1")
    lab.move("shadow", "2")
    gateway = FollowingGateway(sqlite_uri(lab.workspace.ledger_file), "one")
    asyncio.run(gateway.look())
    code, said = commands("shadow", "ramp", "status")
    assert code == 0
    assert "version 2 (no name): running at 1 %, step 1 of 3; it answers 1 % of the clients" in said
    assert "judged by the pairs of one" in said
    for action, state, share in (("hold", "held", 1), ("resume", "running", 1), ("stop", "stopped", 0)):
        code, said = commands("shadow", "ramp", action, "--who", "bob", "--why", "to see")
        assert code == 0, said
        assert f"{state} at 1 %, step 1 of 3; it answers {share} % of the clients" in said
        assert f"{action} by bob: 1 %, step 1 of 3; to see" in said
    code, said = commands("shadow", "ramp", "hold")
    assert code == 2
    assert "the ramp is stopped" in said and "restart" in said
    assert commands("shadow", "ramp", "restart", "--json")[0] == 0
    standing = asyncio.run(gateway.look())
    assert standing.record is not None and (standing.share, standing.record.state) == (0.01, "running")
    lab.move("shadow", "3")
    assert "running at 1 %, step 1 of 3; over, since the alias has moved" in commands("shadow", "ramp", "status")[1]
    code, said = commands("shadow", "ramp", "hold")
    assert (code, "is over: shadow has moved since" in said) == (2, True)
    code, said = commands("registry", "history", "--verify")
    assert code == 0
    assert "whole: no entry was changed or lost" in said


def test_a_folder_s_verdict_is_recorded(commands: Commands) -> None:
    lab = commands.lab
    folder = lab.workspace.replay_dir("live")
    config = VerdictConfig.model_validate({"metrics": {"same": 0.5}})
    frozen = {"verdict": config.model_dump(mode="json"), "verdict_digest": verdict_digest(config)}
    record = {"name": "live", "model": "demo", "started_at": datetime.now(UTC)}
    write_sealed(folder / GATEWAY_FILE, GatewayRecord.model_validate(record | frozen))

    def offered(pairs: int, trial: Trial) -> None:
        with PairDatabase(folder / PAIRS_FILE) as database:
            for number in range(pairs):
                database.offer(pair(number), trial)

    recording: tuple[str, ...] = ("shadow", "verdict", str(folder), "--record")
    offered(0, Trial("none", "", ""))
    code, said = commands(*recording)
    assert (code, "does not say which artifacts were compared" in said) == (2, True), "nothing is tried yet"
    offered(2, Trial("one", lab.artifacts["1"], lab.artifacts["2"]))
    code, said = commands(*recording)
    assert (code, "not decided yet" in said) == (2, True)
    offered(40, Trial("one", lab.artifacts["1"], lab.artifacts["2"]))
    code, said = commands(*recording, "--who", "alice")
    assert code == 0, said
    assert "recorded: pass: all 1 metrics are surely within their limits, over 40 pairs" in said
    (entry,) = lab.ledger.entries(lab.model, f"verdict:{lab.artifacts['2']}")
    assert (entry.kind, entry.who) == ("verdict", "alice")
    lab.move("champion", "1")
    champion: Entry | None = lab.ledger.last(lab.model, "alias:champion")
    assert shadow_outcome(lab.ledger, lab.model, "shadow", lab.artifacts["2"], champion).outcome == "pass"
    # Of a newer trial is judged what it has itself.
    offered(3, Trial("two", lab.artifacts["2"], lab.artifacts["3"]))
    code, said = commands("shadow", "verdict", str(folder), "--json")
    told: dict[str, Any] = json.loads(said)
    assert (code, told["pairs"], told["outcome"]) == (4, 3, "continue")
