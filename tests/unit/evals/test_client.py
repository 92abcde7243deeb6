"""The evaluation's client against a model that is a formula: what it finds, what it asks, and how it fails."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from evals.asking.client import Client
from evals.asking.request_cache import RequestCache
from evals.asking.request_plan import Generate, Question, Score, plan
from registry.contracts import Endpoint
from tests.completions_server import VOCABULARY, FormulaModel, completions_server

CONTEXT = (1, 2, 3, 4)
FACTS = {"model_digest": "sha256:a"}


@contextmanager
def client_of(
    model: FormulaModel, num_concurrent: int = 4, cache: RequestCache | None = None, **facts: Any
) -> Iterator[Client]:
    with completions_server(model) as url:
        endpoint = Endpoint(base_url=url, served_model_name="model", model_path="", max_model_len=64, **facts)
        yield Client([endpoint], num_concurrent, cache)


def ask(model: FormulaModel, questions: list[Question], **options: Any) -> dict[Question, Any]:
    with client_of(model, **options) as client:
        return client.ask(questions, lambda done, total: None)


def scores(count: int) -> list[Question]:
    return [Score((1, item), (2, 3)) for item in range(count)]


@pytest.mark.parametrize(
    "continuations",
    [
        [(5,), (6,), (7,), (8,)],
        [(5, 6, 7), (8, 9)],
        [(5, 6), (5, 7), (5,)],
        [(5, 6, 7, 8, 9)],
        [(token,) for token in range(VOCABULARY)],
    ],
)
def test_what_is_found_is_what_the_model_says(continuations: list[tuple[int, ...]]) -> None:
    model = FormulaModel()
    questions: list[Question] = [Score(CONTEXT, continuation) for continuation in continuations]
    answers = ask(model, questions)
    for question, continuation in zip(questions, continuations, strict=True):
        expected, greedy = model.score(CONTEXT, continuation)
        assert answers[question].nats == pytest.approx(expected)
        assert answers[question].greedy is greedy


def test_the_likeliest_continuation_is_greedy() -> None:
    model = FormulaModel()
    first = model.likeliest(CONTEXT)
    greedy = Score(CONTEXT, (first, model.likeliest([*CONTEXT, first])))
    other = Score(CONTEXT, ((first + 1) % VOCABULARY, model.likeliest([*CONTEXT, (first + 1) % VOCABULARY])))
    answers = ask(model, [greedy, other])
    assert answers[greedy].greedy is True
    assert answers[other].greedy is False


class Tied(FormulaModel):
    """Tokens 7, 9 and 11 are equally likely everywhere, and likelier than all others."""

    def log_probability(self, prefix: Any, token: int) -> float:
        return -1.0 if token in (7, 9, 11) else -2.0


@pytest.mark.parametrize(
    ("continuation", "greedy", "tied"),
    [
        ((7,), True, True),
        ((9,), False, True),
        ((5,), False, False),
        ((7, 7), True, True),
        ((7, 9), False, True),
        ((11, 7), False, True),
        ((7, 5), False, False),
        ((5, 7), False, False),
    ],
)
def test_of_tied_tokens_the_lowest_is_greedy_as_in_argmax(
    continuation: tuple[int, ...], greedy: bool, tied: bool
) -> None:
    """Asked together with another of the tied ones, as choices are: the last place tells only what was asked for."""
    wanted, other = Score(CONTEXT, continuation), Score(CONTEXT, (*continuation[:-1], 9))
    for facts in ({}, {"prefix_block_tokens": 2}):
        answer = ask(Tied(), [wanted, other], **facts)[wanted]
        assert (answer.greedy, answer.tied) == (greedy, tied)


def test_a_penalty_of_the_model_s_own_does_not_shape_an_answer() -> None:
    model = FormulaModel()
    ask(model, [Score(CONTEXT, (5,)), Score(CONTEXT, (5, 6))])
    assert [body["repetition_penalty"] for body in model.bodies] == [1.0, 1.0]


def test_special_tokens_are_told_as_text_so_that_they_stop() -> None:
    model = FormulaModel()
    ask(model, [Generate((1, 2), max_tokens=9, stop=("<|end|>",))])
    (body,) = model.bodies
    assert body["skip_special_tokens"] is body["spaces_between_special_tokens"] is False


def test_one_token_choices_share_a_request_that_may_read_the_prefix_cache() -> None:
    model = FormulaModel()
    ask(model, [Score(CONTEXT, (token,)) for token in (5, 6, 7, 8)])
    (body,) = model.bodies
    assert body["logprob_token_ids"] == [5, 6, 7, 8]
    assert body["prompt"] == list(CONTEXT)
    assert "echo" not in body


def test_longer_choices_leave_their_last_token_out() -> None:
    chains = plan([Score(CONTEXT, (5, 6, 7)), Score(CONTEXT, (5, 6, 8)), Score(CONTEXT, (9, 6))])
    bodies = [request.body() for (request,) in chains]
    assert [(body["prompt"], body["logprob_token_ids"], body["echo"]) for body in bodies] == [
        ((*CONTEXT, 5, 6), [7, 8], True),
        ((*CONTEXT, 9), [6], True),
    ]


def test_more_tokens_than_a_request_takes_are_asked_for_in_several() -> None:
    questions: list[Question] = [Score(CONTEXT, (token,)) for token in range(300)]
    (chain,) = plan(questions)
    assert [len(request.body()["logprob_token_ids"]) for request in chain] == [128, 128, 44]


def test_choices_after_a_long_context_are_scored_step_by_step() -> None:
    context = tuple(range(40))
    questions: list[Question] = [Score(context, (5, 6, 7)), Score(context, (5, 8)), Score(context, (9,))]
    (chain,) = plan(questions, block_tokens=16)
    asked = [(request.body()["prompt"][40:], request.body()["logprob_token_ids"]) for request in chain]
    assert asked == [((), [5, 9]), ((5,), [6, 8]), ((5, 6), [7])]
    assert not any("echo" in request.body() for request in chain)
    assert len(plan(questions, block_tokens=64)) == len(plan(questions)) == 3


def test_step_by_step_finds_the_same_after_its_context_only() -> None:
    model = FormulaModel(delay_seconds=0.01)
    contexts = [tuple(range(first, first + 40)) for first in range(6)]
    continuations = [(5, 6, 7), (5, 8), (9,), (5, 6, 9, 11)]
    questions: list[Question] = [Score(context, continuation) for context in contexts for continuation in continuations]
    answers = ask(model, questions, num_concurrent=5, prefix_block_tokens=16)
    for question in questions:
        assert isinstance(question, Score)
        expected, greedy = model.score(question.context, question.continuation)
        assert answers[question].nats == pytest.approx(expected)
        assert answers[question].greedy is greedy
    prompts = [tuple(body["prompt"]) for body in model.bodies]
    assert len(prompts) == 6 * 4
    for prompt in prompts:
        assert prompts.index(prompt[:40]) <= prompts.index(prompt)


def test_equal_questions_are_asked_once() -> None:
    model = FormulaModel()
    assert len(ask(model, [Score(CONTEXT, (5, 6)), Score(CONTEXT, (5, 6))])) == 1
    assert len(model.bodies) == 1


def test_texts_are_asked_for_as_wanted() -> None:
    model = FormulaModel()
    question = Generate((1, 2), max_tokens=9, stop=("\n",), options='{"top_k": 3}')
    assert ask(model, [question]) == {question: " text 2"}
    (body,) = model.bodies
    assert (body["max_tokens"], body["stop"], body["temperature"], body["top_k"]) == (9, ["\n"], 0, 3)


class Meeting(FormulaModel):
    """Answers nobody until eight ask at once."""

    barrier = threading.Barrier(8, timeout=20.0)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.barrier.wait()
        return super().answer(body)


@pytest.mark.slow
def test_as_many_requests_are_in_flight_as_wanted() -> None:
    assert len(ask(Meeting(), scores(40), num_concurrent=8)) == 40


def test_progress_is_told_of_every_question() -> None:
    told: list[tuple[int, int]] = []
    with client_of(FormulaModel()) as client:
        client.ask(scores(5), lambda done, total: told.append((done, total)))
    assert told[0] == (0, 5)
    assert told[-1] == (5, 5)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_no_key_of_the_user_s_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    model = FormulaModel()
    ask(model, scores(1))
    assert "secret" not in str(model.headers)


class Stumbling(FormulaModel):
    """Fails at one request."""

    def __init__(self, place: int, status: int) -> None:
        super().__init__()
        self.place, self.status = place, status

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, content = super().answer(body)
        return (self.status, {"error": "stumbled"}) if len(self.bodies) == self.place else (status, content)


def test_a_single_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.asking.client._PAUSE_SECONDS", 0.0)
    model = Stumbling(place=2, status=503)
    assert len(ask(model, scores(5), num_concurrent=1)) == 5
    assert len(model.bodies) == 6


def test_a_refusal_is_not_tried_again() -> None:
    model = Stumbling(place=2, status=400)
    with pytest.raises(StageError, match=r"answered 400: .*stumbled"):
        ask(model, scores(5), num_concurrent=1)
    assert len(model.bodies) == 2


def test_servers_of_one_model_share_what_is_asked() -> None:
    models = [FormulaModel(delay_seconds=0.01), FormulaModel(delay_seconds=0.01)]
    with completions_server(models[0]) as one, completions_server(models[1]) as other:
        endpoints = [
            Endpoint(base_url=url, served_model_name="model", model_path="", max_model_len=64, prefix_block_tokens=4)
            for url in (one, other)
        ]
        client = Client(endpoints, num_concurrent=3)
        questions: list[Question] = [*scores(60), *(Score((9, 9, 9, 9, item), (1, 2, 3)) for item in range(8))]
        answers = client.ask(questions, lambda done, total: None)
    for question in questions:
        assert isinstance(question, Score)
        nats, greedy = FormulaModel().score(question.context, question.continuation)
        assert answers[question].nats == pytest.approx(nats)
        assert answers[question].greedy == greedy
    shares = [len(model.bodies) for model in models]
    assert sum(shares) == client.counts.requests
    assert min(shares) > 10
    assert max(model.most_in_flight for model in models) == 3, "of each server, as it would be asked alone"


def test_what_continues_a_context_goes_to_the_server_that_remembers_it() -> None:
    models = [FormulaModel(delay_seconds=0.01), FormulaModel(delay_seconds=0.01)]
    contexts = [tuple([start] * 16) for start in range(1, 13)]
    questions: list[Question] = [
        Score(context, continuation) for context in contexts for continuation in ((30, 31), (32, 33), (34, 35))
    ]
    with completions_server(models[0]) as one, completions_server(models[1]) as other:
        endpoints = [
            Endpoint(base_url=url, served_model_name="model", model_path="", max_model_len=64, prefix_block_tokens=16)
            for url in (one, other)
        ]
        Client(endpoints, num_concurrent=2).ask(questions, lambda done, total: None)
    seen = [{tuple(body["prompt"][:16]) for body in model.bodies} for model in models]
    assert seen[0] | seen[1] == set(contexts)
    assert not seen[0] & seen[1]
    assert seen[0]
    assert seen[1]


class NotANumber(FormulaModel):
    def log_probability(self, prefix: Any, token: int) -> float:
        return float("nan")


def test_not_a_number_is_no_answer(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "cache", FACTS) as cache:
        with pytest.raises(StageError, match="log-likelihood of nan"):
            ask(NotANumber(), scores(1), cache=cache)
        assert cache.get([scores(1)[0].key]) == {}


def test_a_server_that_hangs_is_given_up() -> None:
    with pytest.raises(StageError, match="answered nothing"), client_of(FormulaModel(delay_seconds=1.5)) as client:
        Client(client.endpoints, 4, silence_seconds=0.2).ask(scores(2), lambda done, total: None)


class Busy(FormulaModel):
    """Its metrics say that it computes, or only that a process runs."""

    name = "vllm:generation_tokens_total"

    def metrics(self) -> str:
        return f"{self.name} {time.monotonic()}\nvllm:num_requests_running 1\n"


class Idle(Busy):
    name = "process_cpu_seconds_total"


def test_a_long_answer_of_a_server_that_computes_is_no_hang() -> None:
    facts = {"num_concurrent": 1, "working_metrics": "vllm:"}
    with client_of(Busy(delay_seconds=0.5), **facts) as client:
        patient = Client(client.endpoints, 1, silence_seconds=0.1)
        assert len(patient.ask(scores(1), lambda done, total: None)) == 1
    with (
        client_of(Idle(delay_seconds=0.5), **facts) as client,
        pytest.raises(StageError, match="answered nothing for 0 s, nor computed anything"),
    ):
        Client(client.endpoints, 1, silence_seconds=0.1).ask(scores(1), lambda done, total: None)


class OtherEngine(FormulaModel):
    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return super().answer({key: value for key, value in body.items() if key != "logprob_token_ids"})


def test_a_server_without_the_log_probabilities_of_chosen_tokens() -> None:
    with pytest.raises(StageError, match="lacks the log-probabilities") as caught:
        ask(OtherEngine(), [Score(CONTEXT, (token,)) for token in range(5)])
    assert "vLLM 0.32" in caught.value.remedy


def test_nothing_listens() -> None:
    endpoint = Endpoint(base_url="http://127.0.0.1:9", served_model_name="model", model_path="", max_model_len=64)
    with pytest.raises(StageError, match="stopped answering") as caught:
        Client([endpoint], 2).ask(scores(2), lambda done, total: None)
    assert "goes on where this stopped" in caught.value.remedy


def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.asking.client._PAUSE_SECONDS", 0.0)
    with RequestCache(tmp_path / "cache", FACTS) as cache, pytest.raises(StageError, match="answered 500"):
        ask(FormulaModel(fail_after=10), scores(30), cache=cache)
    model = FormulaModel()
    with RequestCache(tmp_path / "cache", FACTS) as cache, client_of(model, cache=cache) as client:
        answers = client.ask(scores(30), lambda done, total: None)
        assert client.counts.from_cache == 10
    assert len(model.bodies) == 20
    assert all(
        answers[question][:2] == pytest.approx(model.score((1, item), (2, 3)))
        for item, question in enumerate(scores(30))
    )


def test_an_artifact_is_never_answered_for_another(tmp_path: Path) -> None:
    """The same questions, two models: with a file each both are asked, and one's file does not serve the other."""

    class Other(FormulaModel):
        def log_probability(self, prefix: Any, token: int) -> float:
            return super().log_probability(prefix, token) - 1

    models = {"sha256:a": FormulaModel(), "sha256:b": Other()}
    found = {}
    for digest, model in models.items():
        with RequestCache(tmp_path / digest, {"model_digest": digest}) as cache:
            found[digest] = ask(model, scores(3), cache=cache)
    for digest, model in models.items():
        assert [found[digest][question].nats for question in scores(3)] == pytest.approx(
            [model.score((1, item), (2, 3))[0] for item in range(3)]
        )
    with RequestCache(tmp_path / "sha256:a", {"model_digest": "sha256:b"}) as cache:
        assert ask(models["sha256:b"], scores(3), cache=cache) == found["sha256:b"]


KILLED = """
import sys
from pathlib import Path
from evals.asking.client import Client
from evals.asking.request_cache import RequestCache
from evals.asking.request_plan import Score
from registry.contracts import Endpoint
endpoint = Endpoint(base_url=sys.argv[1], served_model_name="model", model_path="", max_model_len=64)
with RequestCache(Path(sys.argv[2]), {"model_digest": "sha256:a"}) as cache:
    Client([endpoint], 4, cache).ask([Score((1, item), (2, 3)) for item in range(400)], lambda done, total: None)
"""


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model = FormulaModel(delay_seconds=0.02)
    with completions_server(model) as url:
        process = subprocess.Popen([sys.executable, "-P", "-c", KILLED, url, str(tmp_path / "cache")])
        while len(model.bodies) < 60 and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    rest = FormulaModel()
    with RequestCache(tmp_path / "cache", FACTS) as cache, client_of(rest, cache=cache) as client:
        client.ask(scores(400), lambda done, total: None)
        # Those in flight when it died are asked again, no others.
        assert client.counts.from_cache >= 60 - 2 * 4
        assert client.counts.from_cache + len(rest.bodies) == 400


def test_a_server_that_starts_late_shares_what_is_left() -> None:
    """And nobody waits for it, nor is it waited for where nothing is left."""
    first, second = FormulaModel(delay_seconds=0.01), FormulaModel(delay_seconds=0.01)
    begun = threading.Event()
    with completions_server(first) as one, completions_server(second) as other:
        ends = [
            Endpoint(base_url=url, served_model_name="model", model_path="", max_model_len=64) for url in (one, other)
        ]

        def further() -> list[Endpoint]:
            assert begun.wait(10)
            return ends[1:]

        client = Client(ends[:1], 2, further=further)
        answers = client.ask(scores(200), lambda done, total: begun.set() if done > 20 else None)
    assert answers == ask(FormulaModel(), scores(200))
    assert client.endpoints == ends
    assert len(first.bodies) > len(second.bodies) > 20


def test_a_late_server_that_does_not_start_ends_the_evaluation() -> None:
    def further() -> list[Endpoint]:
        raise StageError("it did not start", remedy="look at its log")

    with client_of(FormulaModel(delay_seconds=0.01)) as client:
        with pytest.raises(StageError, match="did not start"):
            Client(client.endpoints, 2, further=further).ask(scores(200), lambda done, total: None)
        late = Client(client.endpoints, 2, further=lambda: [])
        assert len(late.ask(scores(50), lambda done, total: None)) == 50
