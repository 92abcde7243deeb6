"""lm-eval against a completions server that is made here: scores, counts, and what happens when it fails."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from evals import suite as suites
from evals.lm_eval_runner import prepare
from evals.samples import read_samples
from evals.suite import Category, Suite, load_suite
from registry.contracts import Endpoint, EvaluationRecord
from tests.tiny_llama import make_tiny_tokenizer

LOGPROB = -0.5


@contextmanager
def completions_server(answer: "Answer") -> Iterator[str]:
    """Echoes prompts with the log-probabilities that `answer` gives to each of their tokens."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer.headers.append(dict(self.headers))
            status, content = answer(body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Answer:
    """Every token is as likely as every other and the most likely one, unless told otherwise."""

    def __init__(self, logprob: float = LOGPROB, fail_after: int | None = None) -> None:
        self.logprob, self.fail_after, self.asked = logprob, fail_after, 0
        self.headers: list[dict[str, str]] = []

    def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked += 1
        if self.fail_after is not None and self.asked > self.fail_after:
            return 500, {"error": "ordered to fail"}
        if "echo" not in body:
            return 200, {"choices": [{"index": index, "text": " Bern."} for index in range(len(body["prompt"]))]}
        choices = []
        for index, tokens in enumerate(body["prompt"]):
            count = len(tokens) + 1
            logprobs = {"token_logprobs": [self.logprob] * count, "top_logprobs": [{"a": self.logprob}] * count}
            choices.append({"index": index, "logprobs": logprobs, "text": ""})
        return 200, {"choices": choices}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer(path)
    return path


def evaluate(
    model_dir: Path, output_dir: Path, answer: Answer, suite: Suite | None = None, max_model_len: int = 512
) -> EvaluationRecord:
    with completions_server(answer) as url:
        endpoint = Endpoint(
            base_url=url, served_model_name="model", model_path=str(model_dir), max_model_len=max_model_len
        )
        return prepare(suite or load_suite("demo")).evaluate(
            endpoint,
            model_digest="sha256:m",
            output_dir=output_dir,
            num_concurrent=4,
            on_progress=lambda done, total: None,
        )


def small_suite(**changes: object) -> Suite:
    fields: dict[str, object] = {
        "name": "grammar",
        "description": "d",
        "tasks": ["demo_grammar"],
        "metric": "acc",
        "chance": 0.5,
    }
    return Suite(name="small", version="1", description="d", categories=[Category.model_validate(fields | changes)])


def test_every_category_is_scored_and_every_item_kept(model_dir: Path, tmp_path: Path) -> None:
    suite = load_suite("demo")
    answer = Answer()
    record = evaluate(model_dir, tmp_path, answer, suite)
    scores = {score.category: score for score in record.categories}
    assert set(scores) == {category.name for category in suite.categories}
    samples = read_samples(tmp_path / record.samples_file)
    assert len(samples) == sum(score.items for score in record.categories) == len(suite.item_texts())
    assert record.requests == answer.asked
    assert record.truncated_prompts == 0
    # Each token is the greedy one, so greedy-match categories are full; each has the log-likelihood of its length.
    assert scores["knowledge"].value == 1.0
    assert scores["language"].value > 1.0
    assert scores["language"].unit == "perplexity"


def test_truncated_prompts_are_counted(model_dir: Path, tmp_path: Path) -> None:
    record = evaluate(
        model_dir, tmp_path, Answer(), small_suite(name="knowledge", tasks=["demo_knowledge"]), max_model_len=14
    )
    assert record.truncated_prompts > 0


GENERATING_TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}."
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""


@pytest.fixture
def generating_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    """A suite of one task that lets the model write: 3 items, the first of them long."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "capitals.yaml").write_text(GENERATING_TASK)
    questions = {"well " * 30 + "the capital of Switzerland is": "Bern", "of France:": "Paris", "of Italy:": "Rome"}
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in questions.items()]
    (folder / "capitals.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(suites, "TASKS_DIR", folder)
    suites._task_files.cache_clear()
    yield small_suite(name="capitals", tasks=["capitals"], metric="exact_match", chance=None)
    suites._task_files.cache_clear()


@pytest.mark.parametrize(("max_model_len", "truncated"), [(512, 0), (40, 1)])
def test_generated_answers_are_counted_and_scored(
    model_dir: Path, tmp_path: Path, generating_suite: Suite, max_model_len: int, truncated: int
) -> None:
    answer = Answer()
    record = evaluate(model_dir, tmp_path, answer, generating_suite, max_model_len)
    assert (record.requests, record.truncated_prompts) == (3, truncated)
    assert answer.asked == 3
    assert record.categories[0].value == pytest.approx(1 / 3)


def test_a_server_that_fails_half_way_ends_the_evaluation(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="evaluation of suite small stopped"):
        evaluate(model_dir, tmp_path, Answer(fail_after=10), small_suite())
    assert not (tmp_path / "samples.jsonl").exists()


def test_not_a_number_is_no_score(model_dir: Path, tmp_path: Path) -> None:
    language = small_suite(
        name="language",
        tasks=["demo_language"],
        metric="word_perplexity",
        unit="perplexity",
        chance=None,
        higher_is_better=False,
    )
    with pytest.raises(StageError, match="word_perplexity is nan"):
        evaluate(model_dir, tmp_path, Answer(logprob=float("nan")), language)


def test_a_metric_that_the_task_does_not_give(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="f1 is None") as caught:
        evaluate(model_dir, tmp_path, Answer(), small_suite(metric="f1"))
    assert "name a metric that the task gives" in caught.value.remedy


def test_a_filter_that_the_task_does_not_have(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="filter strict"):
        evaluate(model_dir, tmp_path, Answer(), small_suite(filter="strict"))


def test_perplexity_texts_are_sent_concurrently(model_dir: Path, tmp_path: Path) -> None:
    class Meeting(Answer):
        """Answers only when two requests wait at once: a client that sends one after the other is refused."""

        def __init__(self) -> None:
            super().__init__()
            self.barrier = threading.Barrier(2, timeout=10)

        def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            self.barrier.wait()
            return super().__call__(body)

    language = small_suite(
        name="language",
        tasks=["demo_language"],
        metric="word_perplexity",
        unit="perplexity",
        chance=None,
        higher_is_better=False,
    )
    assert evaluate(model_dir, tmp_path, Meeting(), language).requests == 104


def test_the_users_key_is_not_sent(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    answer = Answer()
    evaluate(model_dir, tmp_path, answer, small_suite())
    assert all("Authorization" not in headers for headers in answer.headers)
