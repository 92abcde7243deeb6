"""Agreement against distributions that are known whole, and servers and files that are not as they should be."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import StageError
from evals.asking.token_agreement import agree, collect, fixed_prompts, lumped_kl_nats
from registry.contracts import Endpoint

pytestmark = pytest.mark.slow  # a server each

VOCABULARY = 50


def top(logprobs: np.ndarray, count: int) -> dict[int, float]:
    return {int(token): float(logprobs[token]) for token in np.argsort(-logprobs)[:count]}


def random_logprobs(draw: np.random.Generator) -> np.ndarray:
    logits = 2 * draw.normal(size=VOCABULARY)
    return np.asarray(logits - np.log(np.exp(logits).sum()))


def test_the_estimate_is_a_lower_bound_that_closes_with_more_tokens() -> None:
    draw = np.random.default_rng(1)
    for _ in range(50):
        p, q = random_logprobs(draw), random_logprobs(draw)
        whole = float(np.exp(p) @ (p - q))
        bounds = [lumped_kl_nats(top(p, count), top(q, count))[0] for count in (5, 20, VOCABULARY)]
        assert bounds[0] <= whole + 1e-4
        assert bounds[1] <= whole + 1e-4
        assert bounds[2] == pytest.approx(whole, abs=1e-4)
        assert min(bounds) >= 0


def test_by_hand() -> None:
    kl, unseen = lumped_kl_nats({1: math.log(0.5), 2: math.log(0.25)}, {1: math.log(0.25), 3: math.log(0.5)})
    # Two cells: token 1, and all others.
    assert kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75))
    assert unseen == pytest.approx(0.5)


def test_nothing_in_common_is_no_evidence() -> None:
    assert lumped_kl_nats({1: -0.1}, {2: -0.1}) == (pytest.approx(0.0), pytest.approx(1.0))


def line(text: str, places: list[dict[int, float]]) -> str:
    ids = [sorted(place, key=lambda token: -place[token]) for place in places]
    logprobs = [[place[token] for token in tokens] for place, tokens in zip(places, ids, strict=True)]
    return json.dumps({"text": text, "tokens": list(range(len(places) + 1)), "ids": ids, "logprobs": logprobs}) + "\n"


def test_a_model_agrees_with_itself(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    file = tmp_path / "one.jsonl"
    file.write_text("".join(line(f"text {i}", [top(random_logprobs(draw), 20) for _ in range(9)]) for i in range(4)))
    found = agree(file, file)
    assert (found.top1_agreement, found.kl_nats, found.kl_p99_nats, found.positions) == (1.0, 0.0, 0.0, 36)
    assert found.kl_stderr == 0.0


def test_positions_weigh_alike_and_the_least_alike_prompt_comes_first(tmp_path: Path) -> None:
    near, far = {1: math.log(0.6), 2: math.log(0.4)}, {1: math.log(0.4), 2: math.log(0.6)}
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text(line("long", [near] * 3) + line("short", [near]))
    other.write_text(line("long", [near] * 3) + line("short", [far]))
    found = agree(one, other)
    assert found.top1_agreement == 0.75
    assert found.kl_nats == pytest.approx(0.25 * 0.2 * math.log(1.5), abs=1e-5)
    assert [prompt.text for prompt in found.prompts] == ["short", "long"]
    assert found.unseen_share == pytest.approx(0, abs=1e-5)


def test_a_tie_for_the_likeliest_token_is_agreement(tmp_path: Path) -> None:
    tied, second = {1: math.log(0.5), 2: math.log(0.5)}, {1: math.log(0.4), 2: math.log(0.6)}
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text(line("text", [tied]))
    other.write_text(line("text", [second]))
    found = agree(one, other)
    assert found.top1_agreement == 1.0
    assert found.top1_stderr is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"text": "a", "tokens": [1, 2], "ids": [[1, 2]], "logprobs": [[-0.1]]}\n',
        "\udce9".encode(errors="surrogateescape"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str | bytes) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(line("text", [{1: -0.1}]))
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StageError, match=r"bad\.jsonl"):
        agree(good, bad)


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text(line("text", [{1: -0.1}]))
    other.write_text(line("text", [{1: -0.1}] * 2))
    with pytest.raises(StageError, match="cut into different tokens"):
        agree(one, other)


@contextmanager
def server(answer: Callable[[dict[str, Any]], Any]) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = json.dumps(answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{httpd.server_port}"
        yield Endpoint(base_url=url, served_model_name="model", model_path="nowhere", max_model_len=512)
    finally:
        httpd.shutdown()
        httpd.server_close()


def two_tokens(logprob: float) -> Callable[[dict[str, Any]], Any]:
    def answer(body: dict[str, Any]) -> Any:
        assert body["prompt_logprobs"] == 20
        places = [None, {"7": {"logprob": -3.0}, "9": {"logprob": logprob}}]
        return {"choices": [{"prompt_token_ids": [3, 7], "prompt_logprobs": places}]}

    return answer


def tokens_of(*ids: int) -> Callable[..., Any]:
    """A tokenizer by which every text has these ids."""

    def tokenizer(texts: str | list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": list(ids) if isinstance(texts, str) else [list(ids) for _ in texts]}

    return tokenizer


def test_a_server_is_asked_for_every_text(tmp_path: Path) -> None:
    with server(two_tokens(-0.1)) as endpoint:
        one = collect(endpoint, tmp_path / "one.jsonl", tokens_of(3, 7))
    lines = [json.loads(text) for text in one.read_text().splitlines()]
    assert [told["text"] for told in lines] == fixed_prompts()
    assert (lines[0]["ids"], lines[0]["logprobs"]) == ([[9, 7]], [[-0.1, -3.0]])
    assert agree(one, one).top1_agreement == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: {"choices": [{"prompt_token_ids": [3, 7], "prompt_logprobs": None}]},
        lambda body: {"choices": [{"prompt_token_ids": [3], "prompt_logprobs": [None]}]},
        two_tokens(math.nan),
    ],
    ids=["no log-probabilities", "one token", "not a number"],
)
def test_a_server_that_does_not_tell(tmp_path: Path, answer: Callable[[dict[str, Any]], Any]) -> None:
    with server(answer) as endpoint, pytest.raises(StageError, match="told no log-probabilities") as raised:
        collect(endpoint, tmp_path / "one.jsonl", tokens_of(3, 7))
    assert raised.value.remedy
    assert not (tmp_path / "one.jsonl").exists()


def test_a_server_that_cuts_texts_otherwise_is_caught(tmp_path: Path) -> None:
    with server(two_tokens(-0.1)) as endpoint, pytest.raises(StageError, match=r"into the tokens \[3, 7\]"):
        collect(endpoint, tmp_path / "one.jsonl", tokens_of(1, 3, 7))
    assert not (tmp_path / "one.jsonl").exists()


def test_no_server(tmp_path: Path) -> None:
    nobody = Endpoint(base_url="http://127.0.0.1:1", served_model_name="m", model_path="", max_model_len=8)
    with pytest.raises(StageError, match="stopped answering"):
        collect(nobody, tmp_path / "one.jsonl", tokens_of())


def test_a_server_without_an_answer(tmp_path: Path) -> None:
    with server(lambda body: {"choices": []}) as endpoint, pytest.raises(StageError, match="stopped answering"):
        collect(endpoint, tmp_path / "one.jsonl", tokens_of(3, 7))


def test_the_fixed_texts_are_many_and_short() -> None:
    texts = fixed_prompts()
    assert len(texts) == len(set(texts)) == 32
    assert all(80 < len(text) < 400 for text in texts)
