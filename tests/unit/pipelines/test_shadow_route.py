"""`quantbench shadow route`: from records to a route or a refusal, and what a gateway takes of it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import RequestError
from pipelines.cli import main
from pipelines.execution.gateway_routing import cheap_arm, open_router
from pipelines.execution.routes import read_route
from pipelines.execution.served_aliases import Target
from pipelines.execution.shadow_verdict import PAIRS_FILE
from pipelines.execution.workspace import Workspace
from pipelines.recipe.gateway_config import GatewayConfig
from registry.contracts import GatewayRecord, Pair, RouteRecord
from registry.ledger import Entry, Ledger
from registry.pair_database import PairDatabase
from registry.sealed import read_sealed, write_sealed
from registry.tracking.address import sqlite_uri
from tests.shadow_pairs import answer, pair, write_pairs
from tests.unit.pipelines.report_records import report_record
from tests.unit.pipelines.test_compare import workspace as compared  # noqa: F401 - a fixture

CHEAP, PRECISE = "sha256:" + "c" * 64, "sha256:" + "d" * 64
RULES = "rules:\n  - {name: sums, pattern: '\\d'}\n  - {name: words, at_least_characters: 1}\n"


def told_pairs(count: int = 1500, *, tells: bool = True, words: bool = True, **side: Any) -> list[Pair]:
    """A cheap side that gets every second hard prompt wrong, and is unsure of hard ones."""
    hard = np.random.default_rng(3).random(count) < 0.4
    made = []
    for number in range(count):
        sure = not hard[number] if tells else number % 3 == 0
        candidate = answer(
            score=float(not hard[number] or number % 2), mean_logprob=-0.01 if sure else -2.0, seconds=0.5, **side
        )
        body = {"prompt": "1 + 2 =" if sure else "a long story"}
        changed = {"prompt": json.dumps(body)} if words else {}
        champion = answer(score=1.0, **({"version": "1"} if side else {}))
        made.append(pair(number, champion, candidate, **changed))
    return made


def replayed(folder: Path, pairs: list[Pair], **told: Any) -> Path:
    write_pairs(folder, pairs)
    record: dict[str, Any] = {
        "finished_at": datetime.now(UTC).isoformat(),
        "champion": {"digest": PRECISE},
        "candidate": {"digest": CHEAP},
        "config": {"class_by": None},
    }
    (folder / "replay.json").write_text(json.dumps(record | told))
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["shadow", "route", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, " ".join(captured.out.split()), " ".join(captured.err.split())


def test_a_route_with_its_numbers_its_page_and_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = replayed(tmp_path / "pairs", told_pairs(words=False))
    output, page = tmp_path / "route.json", tmp_path / "pages" / "route.html"
    code, text, err = said(capsys, folder, "--output", output, "--page", page)
    assert code == 0
    assert "classes left out: the prompts are of one class" in err
    assert "1,500 items, quality is scores against known answers" in text
    assert "surely lose at most 1 point" in text and "p95 of the whole answer 1,500 ms" in text
    record = read_route(output)
    assert (record.cheap, record.precise, record.items) == (CHEAP, PRECISE, 1500)
    assert record.chosen == "cascade" and "route: cascade" in text
    html = page.read_text()
    assert html.count("<svg") == 1 and "cascade: supported" in html
    assert "http" not in html.replace("http-equiv", ""), "it loads nothing"
    assert main(["shadow", "route", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert RouteRecord.model_validate(told).items_digest == record.items_digest


def test_what_the_records_do_not_support_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = replayed(tmp_path / "pairs", told_pairs(tells=False, words=False))
    code, text, _ = said(capsys, folder, "--output", tmp_path / "route.json", "--page", tmp_path / "route.html")
    assert code == 1
    assert "route: none, the records support no route" in text
    assert "cascade the rule that risks least loses" in text and "at most 1 point may be lost" in text
    assert not (tmp_path / "route.json").exists() and (tmp_path / "route.html").exists()


@pytest.mark.slow
def test_a_classifier_learns_from_words_that_were_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = replayed(tmp_path / "pairs", told_pairs()), tmp_path / "route.json"
    code, text, _ = said(capsys, folder, "--method", "classifier", "--output", output)
    assert code == 0 and "route: classifier, a probability of at most" in text
    record = read_route(output)
    assert record.classifier is not None and 600 < record.classifier.trained_on < 900
    assert "pickle" not in output.read_text() and output.stat().st_size < 20_000


def test_one_method_has_all_of_alpha(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = replayed(tmp_path / "pairs", told_pairs(550, words=False))
    assert said(capsys, folder)[0] == 1, "at a third of alpha 627 pairs are needed"
    assert said(capsys, folder, "--method", "cascade", "--method", "cascade")[0] == 0


def test_classes_by_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = replayed(tmp_path / "pairs", told_pairs(3000))
    (tmp_path / "rules.yaml").write_text(RULES)
    output = tmp_path / "route.json"
    arguments = (folder, "--method", "classes", "--classes", tmp_path / "rules.yaml", "--output", output)
    code, text, _ = said(capsys, *arguments)
    assert code == 0 and "route: classes, cheap are sums" in text
    assert "words: 0 % of" in text and "sums: 100 % of" in text
    record = read_route(output)
    assert record.classes is not None and record.classes.class_by is not None
    assert record.classes.class_by["rules"][0]["pattern"] == "\\d"


@pytest.mark.parametrize(
    ("rules", "words", "says"),
    [
        ("metadata: product\n", True, "the metadata of prompts is not kept"),
        ("rules: [{name: a, tools: true}]\n", True, "whether a request named tools"),
        (RULES, False, "the prompts' words were not kept"),
    ],
)
def test_classes_that_cannot_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: str, words: bool, says: str
) -> None:
    folder = replayed(tmp_path / "pairs", told_pairs(20, words=words))
    (tmp_path / "rules.yaml").write_text(rules)
    code, _, err = said(capsys, folder, "--classes", tmp_path / "rules.yaml")
    assert code == 2 and says in err


def test_a_replay_that_goes_on_is_read_up_to_the_first_pair_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = told_pairs(100, words=False)
    folder = replayed(tmp_path / "pairs", [*some[:40], *some[41:]], finished_at=None)
    assert "40 items" in said(capsys, folder)[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "whose records?"),
        (["somewhere", "--run", "last"], "whose records?"),
        (["nowhere"], "it is no folder of pairs"),
        (["pairs", "--artifact", "gptq"], "--artifact names an artifact of a run"),
        (["--run", "last", "--workspace", "none"], "there is no workspace"),
    ],
)
def test_a_request_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    replayed(tmp_path / "pairs", told_pairs(5))
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, *arguments)
    assert code == 2 and says in err and "remedy" in err


@pytest.mark.parametrize("option", [("--loss", "0"), ("--loss", "nan"), ("--alpha", "0.9"), ("--least-share", "101")])
def test_numbers_that_mean_nothing(tmp_path: Path, option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["shadow", "route", str(tmp_path), *option])
    assert ended.value.code == 2


def test_a_run_s_items(compared: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:  # noqa: F811
    place = ("--workspace", compared.root)
    code, _, err = said(capsys, "--run", "last", *place)
    assert code == 2 and "name one by --artifact: same, near, far" in err
    code, text, err = said(capsys, "--run", "last", "--artifact", "far", *place)
    assert code == 1 and "far beside the baseline of" in text
    assert "cascade left out: no answer of the cheap one has log-probabilities" in err
    assert said(capsys, "--run", "last", "--artifact", "none", *place)[0] == 2


def live(folder: Path) -> tuple[Path, Workspace]:
    """A gateway's folder with pairs of two moves of its aliases."""
    workspace = Workspace(folder / "workspace")
    workspace.create()
    run_dir = workspace.root / "runs" / "one"
    run_dir.mkdir()
    run = report_record(run_dir)
    write_sealed(run_dir / "result.json", run)
    ledger = Ledger(sqlite_uri(workspace.ledger_file))
    for alias, version, artifact in (("champion", "1", PRECISE), ("shadow", "2", CHEAP)):
        entry = Entry(
            model=str(run.config["name"]),
            stream=f"alias:{alias}",
            sequence=0,
            kind="promote",
            at=datetime.now(UTC),
            who="a tester",
            why="",
            version_to=version,
            artifact=artifact,
        )
        ledger.append(entry, None)
    pairs = workspace.replay_dir("live")
    frozen = {"verdict": {}, "verdict_digest": "sha256:v", "started_at": datetime.now(UTC)}
    write_sealed(pairs / "gateway.json", GatewayRecord(name="live", model="demo", run="one", **frozen))
    with PairDatabase(pairs / PAIRS_FILE) as database:
        for version in ("3", "2"):
            for one in told_pairs(800, version=version):
                database.offer(one.model_copy(update={"id": f"{version} {one.id}"}))
    return pairs, workspace


def test_live_pairs_are_those_of_the_two_that_answered_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, workspace = live(tmp_path)
    output = tmp_path / "route.json"
    code, text, _ = said(
        capsys, folder, "--method", "cascade", "--output", output, "--workspace", workspace.root, "--loss", 1
    )
    assert code == 0 and "800 items" in text
    record = read_route(output)
    assert (record.cheap, record.precise) == (CHEAP, PRECISE), "by the ledger's word for versions 2 and 1"


def a_route(folder: Path, **changed: Any) -> Path:
    path = folder / "route.json"
    fields: dict[str, Any] = {
        "source": "a test",
        "cheap": CHEAP,
        "precise": PRECISE,
        "quality": "score",
        "loss": 0.01,
        "alpha": 0.05,
        "least_share": 0.1,
        "items": 1,
        "left_out": {},
        "items_digest": "sha256:i",
        "outcomes": [],
        "chosen": "cascade",
        "cascade": {"threshold": -0.5},
        "made_at": datetime.now(UTC),
    }
    write_sealed(path, RouteRecord.model_validate(fields | changed))
    return path


def config_of(path: Path, **changed: Any) -> GatewayConfig:
    fields = {"version": 1, "name": "live", "model": "demo", "routing": {"calibration": str(path)}}
    return GatewayConfig.model_validate(fields | changed)


def test_a_gateway_follows_a_route_of_the_artifacts_that_it_serves(tmp_path: Path) -> None:
    path = a_route(tmp_path)
    cheap, precise = Target("2", CHEAP, 0, None), Target("1", PRECISE, 0, None)
    assert open_router(config_of(path), precise, cheap) is not None
    record = read_route(path)
    assert cheap_arm(record, precise, cheap) == "candidate"
    assert cheap_arm(record, cheap, precise) == "champion"
    for champion, shadow in ((precise, None), (precise, Target("3", "sha256:e", 0, None)), (cheap, cheap)):
        assert cheap_arm(record, champion, shadow) is None
        with pytest.raises(RequestError, match=r"is a route between c{12} .cheap. and d{12}"):
            open_router(config_of(path), champion, shadow)
    assert open_router(GatewayConfig(version=1, name="live", model="demo"), precise, None) is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"chosen": None, "cascade": None}, "support no route"),
        ({"cheap": None}, "names no artifacts"),
        (
            {"chosen": "classes", "cascade": None, "classes": {"class_by": None, "cheap": ["a"]}},
            "does not say how a prompt's class is found",
        ),
    ],
)
def test_records_that_no_gateway_can_follow(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        open_router(config_of(a_route(tmp_path, **changed)), Target("1", PRECISE, 0, None), Target("2", CHEAP, 0, None))


def test_a_route_that_was_changed_is_none(tmp_path: Path) -> None:
    path = a_route(tmp_path)
    path.write_text(path.read_text().replace("-0.5", "-9.5"))
    with pytest.raises(RequestError, match=r"is no route: .* is damaged"):
        read_route(path)
    with pytest.raises(RequestError, match="is no route"):
        read_route(tmp_path / "none.json")
    with pytest.raises(ValueError, match="the rule that was chosen, and no other"):
        a_route(tmp_path, classifier={"threshold": 0.5, "intercept": 0, "weights": {}, "trained_on": 1})
    assert read_sealed(a_route(tmp_path), RouteRecord).chosen == "cascade"


def test_what_does_not_go_together(tmp_path: Path) -> None:
    path, targets = a_route(tmp_path), (Target("1", PRECISE, 0, None), Target("2", CHEAP, 0, None))
    with pytest.raises(RequestError, match="both say who answers"):
        open_router(config_of(path, split={"share": 0.1}), *targets)
    serving = {"engine": "transformers", "max_model_len": 128}
    with pytest.raises(RequestError, match="gives no log-probabilities"):
        open_router(config_of(path, serving=serving), *targets)


@pytest.mark.slow
def test_nothing_heavy_is_imported_to_follow_a_route() -> None:
    """A gateway starts fast, and its process holds no scikit-learn."""
    code = (
        "import sys, pipelines.execution.gateway; print([m for m in ('sklearn', 'torch', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.'); {code}"], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == "[]"
