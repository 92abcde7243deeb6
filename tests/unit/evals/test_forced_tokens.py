"""Log-probabilities by forced tokens: against a server that is a formula, and answers as llama.cpp's does."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from evals.asking.forced_tokens import is_scoring, scored
from evals.asking.request_plan import Generate, Generating, Score, Scoring, plan

VOCABULARY = 40
LETTER, PART_OF_A_CHARACTER = 7, 13


def logprob(before: Sequence[int], token: int) -> float:
    logits = [((sum(before) + 3 * one) * 7919 % 97) / 20 for one in range(VOCABULARY)]
    return logits[token] - math.log(sum(math.exp(logit) for logit in logits))


class LlamaServer:
    """Tells nothing of a token that is a part of a character, as the real one does."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.obeys = True

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        if path == "/tokenize":
            return {
                "tokens": [LETTER] if body["content"] == "a" else [ord(one) % VOCABULARY for one in body["content"]]
            }
        before = tuple(body["prompt"])
        self.asked.append(before)
        ((token, _),) = body["logit_bias"]
        if token == PART_OF_A_CHARACTER:
            return {"choices": [{"logprobs": None}]}
        chosen = token if self.obeys else token + 1
        order = sorted(range(VOCABULARY), key=lambda one: -logprob(before, one))[: body["logprobs"]]
        top = [{"id": one, "logprob": logprob(before, one)} for one in order]
        place = {"id": chosen, "logprob": logprob(before, chosen), "top_logprobs": top}
        return {"choices": [{"logprobs": {"content": [place]}}]}


def ask(server: LlamaServer, body: Mapping[str, Any]) -> dict[str, Any]:
    return asyncio.run(scored(server.post, body))


@pytest.mark.parametrize("token", [0, 5, PART_OF_A_CHARACTER])
def test_a_token_s_log_probability_and_its_rank_come_out(token: int) -> None:
    question = Score((1, 2, 3), (token,))
    request = Scoring(question.context, 3, [(question, token)])
    ((_, answer),) = request.parts(ask(LlamaServer(), request.body()))
    assert answer.nats == pytest.approx(logprob((1, 2, 3), token))
    assert answer.greedy == (token == max(range(VOCABULARY), key=lambda one: logprob((1, 2, 3), one)))


def test_a_continuation_is_asked_for_token_by_token_after_what_stands_before_it() -> None:
    server, question = LlamaServer(), Score((1, 2), (30, 4, PART_OF_A_CHARACTER))
    (chain,) = plan([question], 1, forced=True)
    total = 0.0
    for request in chain:
        assert isinstance(request, Scoring)
        body = request.body()
        assert is_scoring(body)
        assert "echo" not in body
        total += sum(part.nats for _, part in request.parts(ask(server, body)))
    prompts = [(1, 2), (1, 2, 30), (1, 2, 30, 4)]
    assert list(dict.fromkeys(server.asked)) == prompts
    assert total == pytest.approx(sum(logprob(*pair) for pair in zip(prompts, question.continuation, strict=True)))


def test_choices_share_their_context_s_request() -> None:
    (chain,) = plan([Score((1, 2), (3,)), Score((1, 2), (4,))], 1, forced=True)
    assert len(chain) == 1


def test_a_text_is_told_as_the_server_cuts_it() -> None:
    choice = ask(LlamaServer(), {"prompt": "abc", "prompt_logprobs": 3, "max_tokens": 1})
    tokens = choice["prompt_token_ids"]
    assert tokens == [ord(one) % VOCABULARY for one in "abc"]
    first, *places = choice["prompt_logprobs"]
    assert first is None
    for place, told in enumerate(places, 1):
        assert 3 <= len(told) <= 4
        assert told[str(tokens[place])]["logprob"] == pytest.approx(logprob(tokens[:place], tokens[place]))


def test_a_server_that_does_not_obey_is_told() -> None:
    server = LlamaServer()
    server.obeys = False
    with pytest.raises(ValueError, match="nothing was told where token 7 was forced"):
        ask(server, {"prompt": [1], "logprob_token_ids": [5], "logprobs": 1})


def test_answers_are_no_scores() -> None:
    assert not is_scoring(Generating(Generate((1,), 4)).body())
