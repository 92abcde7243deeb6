"""`quantbench shadow replay`: what is refused before a server is asked, what is kept, and what is gone on with."""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from configs.errors import ConfigError, RequestError, StageError
from configs.loading import load_yaml_model
from pipelines.cli import main
from pipelines.execution import replay
from pipelines.execution.replay import execute_replay, open_replay
from pipelines.execution.workspace import Workspace
from pipelines.recipe.replay_config import ReplayConfig
from pipelines.records.replay_result import ReplayResult, summary_of
from pipelines.report.replay_table import print_replay
from pipelines.stage_programs.replay_stage import CHAMPION_FILE, ReplayJob
from pipelines.stage_programs.replay_stage import replay as replay_stage
from registry.contracts import Failure, Pair, ReplayRecord, Reply, StageResult
from registry.explain import explanation_of
from registry.journal import read_journal
from registry.pairs import read_pair_table
from registry.sealed import read_sealed
from registry.stage_process import StageClock
from serving_checks.replay import asking
from tests.scripted_server import Answering, Scripted, ScriptedServer, echo, scripted_server, text_events
from tests.unit.pipelines.test_runner import ROOT

PRIVATE = "a word that only the prompts hold"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stage's work without its process: its job is written and read all the same."""

    def run_job(job: ReplayJob, module: str, name: str, log_file: Path, **options: Any) -> StageResult:
        assert module == "pipelines.stage_programs.replay_stage"
        options["on_progress"]("starting")
        read = ReplayJob.model_validate_json(job.model_dump_json())
        clock = StageClock(job.output_dir / "progress")
        log_file.write_text("x")
        try:
            return replay_stage(read, clock)
        except Exception as error:
            return StageResult(stage="replay", failure=Failure.of(explanation_of(error, clock.doing, job.output_dir)))
        finally:
            (job.output_dir / "progress").unlink(missing_ok=True)

    monkeypatch.setattr(replay, "run_job", run_job)
    monkeypatch.setattr(asking, "_ALIVE_ATTEMPTS", 1)
    yield


class Lab:
    """Two servers, a log, and a config that names them."""

    def __init__(self, folder: Path, champion: ScriptedServer, candidate: ScriptedServer, ports: list[str]) -> None:
        self.champion, self.candidate, self.ports = champion, candidate, ports
        self.folder, self.workspace = folder, folder / "workspace"
        self.directory = self.workspace / "shadow" / "mine"
        self.log = folder / "log.jsonl"
        self.write_log(*({"prompt": f"{PRIVATE} {number}"} for number in range(12)))
        self.changes: dict[str, Any] = {}

    def write_log(self, *lines: Any) -> None:
        self.log.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))

    def config(self) -> Path:
        sides = [{"serving": {"engine": "openai", "base_url": url, "served_model_name": "model"}} for url in self.ports]
        config = {
            "version": 1,
            "name": "mine",
            "prompts": {"file": str(self.log)},
            "champion": sides[0],
            "candidate": sides[1],
            "asking": {"concurrency": 3, "timeout_seconds": 5},
        }
        path = self.folder / "replay.yaml"
        path.write_text(yaml.safe_dump(config | self.changes))
        return path

    def run(self, *overrides: str, arguments: tuple[str, ...] = ()) -> int:
        settings = [part for one in overrides for part in ("--set", one)]
        return main(["shadow", "replay", str(self.config()), "--workspace", str(self.workspace), *arguments, *settings])

    @property
    def pairs(self) -> list[Pair]:
        return [Pair.model_validate(row) for row in read_pair_table(self.directory).to_pylist()]

    @property
    def record(self) -> ReplayRecord:
        return read_sealed(self.directory / "replay.json", ReplayRecord)


@contextmanager
def lab_of(folder: Path, champion: Answering = echo, candidate: Answering = echo) -> Iterator[Lab]:
    with ExitStack() as servers:
        found = [servers.enter_context(scripted_server(answering)) for answering in (champion, candidate)]
        ports = [endpoint.base_url for endpoint, _ in found]
        yield Lab(folder, found[0][1], found[1][1], ports)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with lab_of(tmp_path) as made:
        yield made


@pytest.mark.parametrize("together", [True, False])
def test_pairs_are_kept_and_the_end_is_told(lab: Lab, together: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.run(f"together={str(together).lower()}", arguments=("--json",)) == 0
    told = capsys.readouterr()
    record, pairs = lab.record, lab.pairs
    assert json.loads(told.out)["record"] == record.model_dump(mode="json")
    assert json.loads(told.out)["summary"]["same"] == 12
    for said in ("12 of 12 answers are the same", "latency ms", f"next: quantbench shadow verdict {lab.directory}"):
        assert said in told.err
    assert [pair.number for pair in pairs] == list(range(12))
    assert all(pair.same and pair.champion.characters > 0 and pair.candidate.completion_tokens == 2 for pair in pairs)
    assert (record.pairs, record.champion_errors, record.candidate_errors) == (12, 0, 0)
    assert record.finished_at is not None
    assert sorted(path.name for path in lab.directory.iterdir()) == ["pairs", "replay.json"]
    assert lab.directory.stat().st_mode & 0o777 == 0o700
    # Again: nothing is asked twice.
    assert lab.run(f"together={str(together).lower()}") == 0
    assert len(lab.champion.bodies) == len(lab.candidate.bodies) == 12


def test_the_champion_s_prompts_are_the_candidate_s(lab: Lab) -> None:
    lab.run("asking.max_output_tokens=9")
    for script in (lab.champion, lab.candidate):
        assert {body["max_tokens"] for body in script.bodies} == {9}
        assert script.most_in_flight <= 3
    assert sorted(map(str, lab.champion.bodies)) == sorted(map(str, lab.candidate.bodies))


def saying(words: str, **usage: int) -> Answering:
    return lambda path, body: Scripted(text_events(words, prompt_tokens=3, **usage))


def test_what_differs_is_counted(tmp_path: Path) -> None:
    with lab_of(tmp_path, saying("7", completion_tokens=4), saying("8", completion_tokens=5)) as lab:
        lab.write_log({"prompt": "3 + 4", "expected": "7", "metadata": {"class": "sum"}}, {"prompt": "say"})
        lab.changes = {"class_by": {"metadata": "class"}, "answers": {}}
        assert lab.run() == 0
        found = {pair.prompt_class: pair for pair in lab.pairs}
        assert (found["sum"].champion.score, found["sum"].candidate.score, found[""].champion.score) == (1, 0, None)
        assert found["sum"].same is False and found["sum"].first_difference is None
        summary = summary_of(read_pair_table(lab.directory))
    assert (summary.same, summary.tokens_ratio) == (0, 1.25)
    assert (summary.champion.mean_score, summary.candidate.mean_score) == (1, 0)


def test_a_prompt_that_does_not_fit_is_an_error_of_one_answer(tmp_path: Path) -> None:
    def short(path: str, body: dict[str, Any]) -> Scripted:
        if len(body["prompt"]) > 100:
            return Scripted([{"error": {"message": "the context is 64 tokens"}}], status=400)
        return echo(path, body)

    with lab_of(tmp_path, candidate=short) as lab:
        lab.write_log(*[{"prompt": "x" * 200}] * 30, {"prompt": "y"})
        assert lab.run() == 0
        errors = [pair.candidate.error for pair in lab.pairs if pair.candidate.error]
        assert len(errors) == 30 and "the context is 64 tokens" in errors[0]
        assert lab.record.candidate_errors == 30
        assert sum(pair.same is None for pair in lab.pairs) == 30


def test_what_users_said_is_kept_only_where_that_is_asked_for(tmp_path: Path) -> None:
    with lab_of(tmp_path, saying("a secret answer"), saying("another secret answer")) as lab:
        assert lab.run("together=false") == 0
        kept = str(read_pair_table(lab.directory).to_pylist())
        kept += "".join(path.read_bytes().decode("latin-1") for path in lab.directory.rglob("*") if path.is_file())
        assert PRIVATE not in kept and "secret" not in kept
        assert lab.run("name=open", "keep_prompts=true") == 0
        rows = read_pair_table(lab.workspace / "shadow" / "open").to_pylist()
    assert json.loads(rows[0]["prompt"])["prompt"].startswith(PRIVATE)
    assert rows[0]["champion"]["text"] == "a secret answer"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("dying", ["champion", "candidate"])
def test_a_server_that_dies_leaves_what_was_answered_and_is_gone_on_with(
    lab: Lab, dying: str, together: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = f"together={str(together).lower()}"
    getattr(lab, dying).die_after = 6
    assert lab.run(setting) == 3
    told = capsys.readouterr().err
    assert "does not answer any more" in told and "the same command asks only what is missing" in told
    pairs_then = len(lab.pairs)
    champion_then = {reply.id for reply in read_journal(lab.directory / CHAMPION_FILE, Reply)}
    assert f"{pairs_then} of 12 pairs are kept" in told
    assert (pairs_then or len(champion_then)) > 0
    assert lab.record.finished_at is None
    port = int(lab.ports[dying == "candidate"].rpartition(":")[2])
    with scripted_server(port=port) as (_, revived):
        assert lab.run(setting) == 0
    assert [pair.number for pair in lab.pairs] == list(range(12))
    assert lab.record.champion_errors == lab.record.candidate_errors == 0
    answered = {"champion": len(champion_then) if not together else pairs_then, "candidate": pairs_then}
    # Nothing that was kept is asked again.
    assert len(revived.bodies) == 12 - answered[dying]


def test_a_server_that_answers_nothing_stops_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lab_of(tmp_path, candidate=lambda path, body: Scripted([{"error": "ordered to fail"}], status=500)) as lab:
        lab.write_log(*[{"prompt": "x"}] * 40)
        assert lab.run() == 3
        assert "the last 20 prompts were not answered: HTTP 500" in capsys.readouterr().err
        assert lab.pairs == []


def test_a_replay_without_a_pair_of_answers_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lab_of(tmp_path, candidate=lambda path, body: Scripted([{"error": "no such field"}], status=422)) as lab:
        assert lab.run() == 3
    told = capsys.readouterr().err
    assert "no prompt of 12 was answered by both models" in told and "no such field" in told


def test_a_wrong_key_stops_it_before_anything_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lab_of(tmp_path, candidate=lambda path, body: Scripted(status=401)) as lab:
        assert lab.run() == 2
        assert "api_key_variable" in capsys.readouterr().err
        assert lab.pairs == []


def changed_log(lab: Lab) -> None:
    lab.write_log(*({"prompt": f"{PRIVATE} {number}"} for number in range(13)))


def changed_config(lab: Lab) -> None:
    lab.changes = {"asking": {"concurrency": 2}}


def changed_verdict(lab: Lab) -> None:
    lab.changes = {"verdict": {"alpha": 0.1}}


def changed_server(lab: Lab) -> None:
    lab.ports[1] = lab.ports[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed_log, "prompts.digest was"),
        (changed_config, "config.asking.concurrency was 3, is 2"),
        (changed_verdict, "config.verdict.alpha was 0.05, is 0.1"),
        (changed_server, "candidate.name was"),
    ],
)
def test_what_was_begun_otherwise_is_not_gone_on_with(
    lab: Lab, change: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.candidate.die_after = 5
    assert lab.run() == 3
    change(lab)
    capsys.readouterr()
    assert lab.run() == 2
    told = capsys.readouterr().err
    assert "was begun otherwise" in told and says in told and f"remove {lab.directory}" in told


def test_a_damaged_record_is_told(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.run() == 0
    path = lab.directory / "replay.json"
    path.write_text(path.read_text().replace('"pairs": 12', '"pairs": 11'))
    assert lab.run() == 2
    assert "checksum" in capsys.readouterr().err


def test_answers_of_nobody_knows_what_are_not_gone_on_with(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.run() == 0
    (lab.directory / "replay.json").unlink()
    assert lab.run() == 2
    assert "holds answers, and no replay.json" in capsys.readouterr().err


def test_a_part_that_was_removed_is_asked_anew(lab: Lab) -> None:
    assert lab.run() == 0
    (part,) = (lab.directory / "pairs").iterdir()
    part.unlink()
    assert lab.run() == 0
    assert len(lab.pairs) == 12 and len(lab.candidate.bodies) == 24


def test_what_does_not_shape_the_pairs_may_change(lab: Lab) -> None:
    assert lab.run() == 0
    assert lab.run("description=other words", "deadlines.silent_minutes=7", "fork_servers=false") == 0


def test_a_judge_is_asked_in_both_orders_where_answers_differ(tmp_path: Path) -> None:
    def champion(path: str, body: dict[str, Any]) -> Scripted:
        return Scripted(text_events("same" if body["prompt"] == "alike" else "the champion's", completion_tokens=1))

    def candidate(path: str, body: dict[str, Any]) -> Scripted:
        return Scripted(text_events("same" if body["prompt"] == "alike" else "the candidate's", completion_tokens=1))

    def prefers_candidate(path: str, body: dict[str, Any]) -> Scripted:
        said = body["messages"][0]["content"]
        letter = "A" if said.index("the candidate's") < said.index("the champion's") else "B"
        return Scripted(text_events(letter, chat=True))

    with lab_of(tmp_path, champion, candidate) as lab, scripted_server(prefers_candidate) as (endpoint, script):
        lab.write_log({"prompt": "alike"}, *[{"prompt": "other"}] * 3)
        serving = {"engine": "openai", "base_url": endpoint.base_url, "served_model_name": "model"}
        lab.changes = {"judge": {"serving": serving}}
        assert lab.run() == 0
        found = sorted((pair.same, pair.preference) for pair in lab.pairs)
        assert found == [(False, 1.0)] * 3 + [(True, 0.0)]
        assert len(script.bodies) == 6


def test_a_judge_that_says_something_else_prefers_nothing(tmp_path: Path) -> None:
    with (
        lab_of(tmp_path, saying("a"), saying("b")) as lab,
        scripted_server(lambda path, body: Scripted(text_events("Both are fine", chat=True))) as (endpoint, _),
    ):
        serving = {"engine": "openai", "base_url": endpoint.base_url, "served_model_name": "model"}
        lab.changes = {"judge": {"serving": serving}}
        assert lab.run() == 0
        assert {pair.preference for pair in lab.pairs} == {None}


def test_lines_that_were_left_out_are_told(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write_log(*[{"prompt": "x"}] * 19, "{")
    assert lab.run() == 0
    assert "1 of 20 lines of" in (told := capsys.readouterr().err) and "line 20: not JSON" in told


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"promts": {}}, ["unknown key `promts`", "did you mean `prompts`?"]),
        ({"champion": {"model": "a", "artifact": "abcdef"}}, ["name one of `model`, `artifact` and `run`"]),
        ({"champion": {}}, ["name one of `model`, `artifact` and `run`"]),
        ({"champion": {"run": "last"}}, ["`run` and `name` belong together"]),
        ({"champion": {"artifact": "xyz"}}, ["artifact"]),
        ({"judge": {"serving": {"engine": "vllm"}}}, ["a judge is a server that runs already"]),
        ({"class_by": {}}, ["either `metadata` or `rules`"]),
        ({"class_by": {"rules": [{"name": "a", "pattern": "("}]}}, ["no regular expression"]),
        ({"asking": {"concurrency": 0}}, ["greater than or equal to 1"]),
        ({"asking": {"sampling": "hot"}}, ["greedy"]),
        (
            {"champion": {"model": "a"}, "serving": {"max_model_len": 512}, "asking": {"max_output_tokens": 512}},
            ["leaves no room for a prompt in the 512 tokens that the champion's server takes"],
        ),
    ],
)
def test_a_wrong_config_is_refused(lab: Lab, changes: dict[str, Any], says: list[str]) -> None:
    lab.changes = changes
    with pytest.raises(ConfigError) as caught:
        open_replay(lab.config(), [], Workspace(lab.workspace))
    for said in says:
        assert said in str(caught.value)


def test_a_server_that_runs_already_has_no_folder(lab: Lab) -> None:
    side = {"model": "here", "serving": {"engine": "openai", "base_url": lab.ports[0], "served_model_name": "model"}}
    lab.changes = {"champion": side}
    with pytest.raises(ConfigError, match="leave `model` out"):
        open_replay(lab.config(), [], Workspace(lab.workspace))


def model_folder(folder: Path, **files: Any) -> Path:
    folder.mkdir()
    for name, content in {"config": {}, "tokenizer_config": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"champion": {"model": "nowhere"}}, "nowhere/config.json cannot be read"),
        ({"champion": {"artifact": "abcdef"}}, "no object in the store with digest abcdef"),
        ({"champion": {"run": "last", "name": "baseline"}}, "there is no workspace"),
        ({"asking": {"score_answers": True}}, "gives no log-probabilities, which `asking.score_answers`"),
        ({"asking": {"logprobs": True}}, "gives no log-probabilities, which `asking.logprobs`"),
        ({"prompts": {"file": "none.jsonl"}}, "none.jsonl: cannot be read"),
    ],
)
def test_what_cannot_work_is_told_before_a_server_is_asked(lab: Lab, changes: dict[str, Any], says: str) -> None:
    lab.changes = changes
    with pytest.raises(RequestError, match=says):
        open_replay(lab.config(), ["device=cpu"], Workspace(lab.workspace))
    assert not lab.workspace.exists()


def test_conversations_need_a_chat_template(lab: Lab) -> None:
    lab.write_log({"messages": [{"role": "user", "content": "hi"}]})
    lab.changes = {"champion": {"model": str(model_folder(lab.folder / "model"))}}
    with pytest.raises(RequestError, match=r"some prompts are conversations, and .*model has no chat template"):
        open_replay(lab.config(), ["device=cpu"], Workspace(lab.workspace))


def test_the_demo_s_config_is_sound_and_names_prompts_that_are_there() -> None:
    config = load_yaml_model(ROOT / "configs" / "shadow" / "demo.yaml", ReplayConfig)
    assert (ROOT / config.prompts.file).is_file()
    assert not config.asks_together


def test_a_terminal_of_any_width_shows_the_end(lab: Lab) -> None:
    workspace = Workspace(lab.workspace)
    workspace.create()
    result = execute_replay(open_replay(lab.config(), [], workspace), workspace, lambda text: None)
    for width in (40, 200):
        text = io.StringIO()
        print_replay(Console(file=text, width=width), result)
        assert "12 of 12 answers are the same" in text.getvalue()
    told = result.summary.model_copy(
        update={"tool_calls": 3, "same_tool_calls": 2, "mean_agreement": 0.5, "judged": 4, "mean_preference": -0.25}
    )
    told = told.model_copy(update={"median_first_difference": 3.0})
    text = io.StringIO()
    print_replay(Console(file=text, width=200), ReplayResult(result.record, told, result.directory))
    for said in ("2 of 3 answers with tool calls", "50.0 %", "-0.25 on average, of 4 pairs", "part at token 3"):
        assert said in text.getvalue()


def test_a_log_that_is_written_to_amid_a_replay_is_told(lab: Lab) -> None:
    workspace = Workspace(lab.workspace)
    workspace.create()
    opened = open_replay(lab.config(), [], workspace)
    changed_log(lab)
    with pytest.raises(RequestError, match="was changed since the replay began"):
        execute_replay(opened, workspace, lambda text: None)
    assert lab.champion.bodies == []


def test_a_damaged_part_stops_it(lab: Lab) -> None:
    assert lab.run() == 0
    (part,) = (lab.directory / "pairs").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    workspace = Workspace(lab.workspace)
    with pytest.raises(StageError, match="damaged"):
        execute_replay(open_replay(lab.config(), [], workspace), workspace, lambda text: None)
