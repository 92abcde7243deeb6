"""From two replies to a pair: compared, scored, and without words where they are not to be kept."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from evals.asking.task_scorer import TaskScorer
from evals.judging.answer_pairs import answer_of, first_difference, said_by, same_answer, same_tool_calls
from evals.judging.known_answers import TaskScorerConfig, score_of
from evals.judging.preference import preference_of, questions_of
from pipelines.recipe.replay_config import JudgeConfig, ReplayConfig
from registry.contracts import Answer, Pair, Reply
from serving_checks.replay.asking import ForcedScore, ReplayClient
from serving_checks.replay.prompts import Prompt, prompt_json


class Answered(NamedTuple):
    """All that was asked about one prompt."""

    champion: Reply
    candidate: Reply
    score: ForcedScore | None = None
    """Of the champion's answer by the candidate."""
    preference: int | None = None


async def scored(champion: Reply, candidate: Reply, client: ReplayClient) -> ForcedScore | None:
    """How likely the candidate finds the champion's answer; None where there is none, or its tokens are not known."""
    if champion.error or candidate.error or not champion.prompt_token_ids or not champion.token_ids:
        return None
    return await client.score(champion.prompt_token_ids, champion.token_ids)


async def preferred(
    prompt: Prompt, champion: Reply, candidate: Reply, config: JudgeConfig, judge: ReplayClient
) -> int | None:
    """Which answer the judge prefers; equal ones are a tie without asking, None where it does not say."""
    same = same_answer(champion, candidate)
    if same is None:
        return None
    if same:
        return 0
    told = []
    for question in questions_of(config.question, prompt.text, said_by(champion), said_by(candidate)):
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": config.max_output_tokens}
        reply = await judge.ask(prompt._replace(chat=True, body=body))
        if reply.error:
            return None
        told.append(reply.text)
    return preference_of(*told)


Score = Callable[[Prompt, str], float | None]
"""Of an answer to a prompt whose right answer is known."""


def scorer_of(config: ReplayConfig, prompts: Sequence[Prompt]) -> Score:
    """How answers are held against the known ones; by a task's own scorer it takes seconds to make."""
    known = config.answers
    if known is None:
        return lambda prompt, text: None
    if isinstance(known.scorer, TaskScorerConfig):
        documents = {prompt.id: prompt.expected for prompt in prompts if prompt.expected is not None}
        task = TaskScorer(known.scorer, documents)
        return lambda prompt, text: task.score(prompt.id, text) if prompt.expected is not None else None
    return lambda prompt, text: None if prompt.expected is None else score_of(text, prompt.expected, known)


def pair_of(prompt: Prompt, answered: Answered, score: Score, *, keep_prompts: bool) -> Pair:
    """The pair of a prompt, as it is kept."""
    champion, candidate = answered.champion, answered.candidate
    same = same_answer(champion, candidate)
    logprobs = champion.logprobs if answered.score else None
    return Pair(
        id=prompt.id,
        number=prompt.number,
        source="replay",
        at=min(champion.sent_at, candidate.sent_at),
        prompt_class=prompt.prompt_class,
        prompt_hash=prompt.hash,
        prompt_characters=len(prompt.text),
        prompt=prompt_json(prompt) if keep_prompts else "",
        champion=_answer(prompt, champion, score, keep_prompts),
        candidate=_answer(prompt, candidate, score, keep_prompts),
        same=same,
        # The same words may be cut into other tokens.
        first_difference=first_difference(champion.token_ids, candidate.token_ids) if same is False else None,
        same_tool_calls=same_tool_calls(champion, candidate),
        agreement=answered.score.agreement if answered.score else None,
        champion_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
        candidate_logprob=answered.score.mean_logprob if answered.score else None,
        preference=answered.preference,
    )


def _answer(prompt: Prompt, reply: Reply, score: Score, keep_text: bool) -> Answer:
    return answer_of(reply, prompt.text, None if reply.error else score(prompt, reply.text), keep_text=keep_text)
