"""Token-level agreement of two models on fixed texts: same most likely token, and KL divergence, at each position.

Two halves, since baseline and artifact are never served at the same time: `collect` asks one server and writes a file,
`agree` compares two files and needs no server.

The divergence that is reported is a lower bound. A server tells the most likely tokens only, so the vocabulary is cut
into cells: each token whose probability both servers told is a cell of its own, all the others are one cell together.
KL between the two distributions over these cells is never larger than over the vocabulary: processing data, here
forgetting which token of the last cell it was, cannot add information (the log-sum inequality; Cover and Thomas,
Elements of Information Theory, 2nd ed., theorem 2.7.1 and section 2.8). How much probability lies in the last cell is
reported beside it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import StageError, UnreadableError
from configs.reading.json_text import read_json_lines
from configs.reading.text import lines_of
from evals.asking.client import Client
from evals.statistics.paired import paired_means
from registry.contracts import Endpoint, PromptAgreement, PromptLogprobs, TokenAgreementRecord
from registry.contracts.token_logprobs import TOP_LOGPROBS
from registry.files import write_text_atomically
from registry.hashing import digest_of
from registry.os_faults import check_not_refused
from registry.texts import text_ids

PROMPTS_FILE = Path(__file__).parents[1] / "tasks" / "token_agreement" / "prompts.jsonl"
_LEAST = 1e-6
"""Smallest probability of the last cell. Servers compute in float32, where the rest of a distribution that is all in
its first tokens is noise of this size."""
_WORST_PROMPTS = 3


def fixed_prompts(path: Path = PROMPTS_FILE) -> list[str]:
    """The texts that models are compared on: short ones of our own, of many kinds."""
    return [row["text"] for _, row in read_json_lines(path)]


def collect(endpoint: Endpoint, path: Path, tokenizer: Any, *, num_concurrent: int = 8) -> Path:
    """Ask the server for the log-probabilities of the fixed texts and write them to `path`, a line a text.

    The texts are sent as texts, and the server tells how it cut them: load tests and the smoke test send texts too, the
    evaluation sends token ids, and all of it is about one model only where both are the same.

    Args:
        endpoint: A running vLLM server; `prompt_logprobs` is its extension of the completions API.
        tokenizer: Of transformers, the served model's.

    Returns:
        `path`.

    Raises:
        StageError: The server did not answer, answered without log-probabilities or with what is no number, or cuts a
            text into other tokens than `tokenizer`.
    """
    texts = fixed_prompts()
    options = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": TOP_LOGPROBS, "return_token_ids": True}
    told = []
    choices = Client([endpoint], num_concurrent).complete([{"prompt": text, **options} for text in texts])
    for text, choice in zip(texts, choices, strict=True):
        try:
            told.append(_parsed(text, choice["prompt_token_ids"], choice["prompt_logprobs"]))
        except (LookupError, TypeError, ValueError) as error:
            raise StageError(
                f"the server told no log-probabilities for {text[:40]!r}: {type(error).__name__}: {error}",
                remedy="see the end of the server's log beside this stage's: it would answer so again",
                blame="engine",
            ) from error
    _check_tokens(told, text_ids(tokenizer, texts))
    write_text_atomically(path, "".join(one.model_dump_json() + "\n" for one in told))
    return path


def _check_tokens(told: list[PromptLogprobs], wanted: list[list[int]]) -> None:
    for one, ids in zip(told, wanted, strict=True):
        if one.tokens != ids:
            raise StageError(
                f"the server cuts {one.text[:40]!r} into the tokens {one.tokens[:8]} ..., the model's tokenizer into"
                f" {ids[:8]} ...: its answers to texts are no answers to what the evaluation asks",
                remedy="see how the server loads its tokenizer in its log beside this stage's; serve with the engine"
                " and transformers that the lock names",
                blame="engine",
            )


def agree(baseline_file: Path, artifact_file: Path) -> TokenAgreementRecord:
    """Compare what two servers said about the same texts.

    Raises:
        StageError: A file is damaged, or the two hold other texts or other tokens.
    """
    baseline, artifact = _read(baseline_file), _read(artifact_file)
    if [one.tokens for one in baseline] != [one.tokens for one in artifact]:
        raise StageError(
            f"{baseline_file} and {artifact_file} hold different texts, or the same cut into different tokens",
            remedy="their tokenizers differ: see an artifact's inspection, or for a baseline beside transformers the"
            " engine's log",
        )
    positions = [
        [_compare(*cells) for cells in zip(one.ids, one.logprobs, other.ids, other.logprobs, strict=True)]
        for one, other in zip(baseline, artifact, strict=True)
    ]
    every = np.array([position for prompt in positions for position in prompt])
    per_prompt = np.array([np.mean(prompt, axis=0) for prompt in positions])
    counts = np.array([float(len(prompt)) for prompt in positions])
    # Two readings of the same prompts: their weighted means, each with its variance over prompts.
    means = paired_means(per_prompt[:, 0], per_prompt[:, 1], counts)
    several = len(positions) > 1
    details = [
        PromptAgreement(text=one.text, positions=len(prompt), top1_agreement=float(same), kl_nats=float(kl))
        for one, prompt, (same, kl, _) in zip(baseline, positions, per_prompt, strict=True)
    ]
    return TokenAgreementRecord(
        prompts_digest=digest_of([one.text for one in baseline]),
        positions=len(every),
        top_logprobs=TOP_LOGPROBS,
        top1_agreement=means.baseline,
        top1_stderr=math.sqrt(means.baseline_variance) if several else None,
        kl_nats=means.artifact,
        kl_stderr=math.sqrt(means.artifact_variance) if several else None,
        kl_p99_nats=float(np.quantile(every[:, 1], 0.99)),
        unseen_share=float(every[:, 2].mean()),
        prompts=sorted(details, key=lambda one: -one.kl_nats)[:_WORST_PROMPTS],
    )


def lumped_kl_nats(baseline: dict[int, float], artifact: dict[int, float]) -> tuple[float, float]:
    """KL(baseline || artifact) over the tokens that both tell, one by one, and all others as one cell.

    Args:
        baseline: Token -> log-probability in nats; the most likely tokens.
        artifact: The same of the other model; not necessarily of the same tokens.

    Returns:
        The divergence in nats, a lower bound of that over the whole vocabulary but for rounding, and the probability
        that the baseline gives to the last cell.
    """
    common = baseline.keys() & artifact.keys()
    p = [math.exp(baseline[token]) for token in common]
    rest = max(_LEAST, 1 - sum(p)), max(_LEAST, 1 - sum(math.exp(artifact[token]) for token in common))
    told = sum(share * (baseline[token] - artifact[token]) for token, share in zip(common, p, strict=True))
    return max(0.0, told + rest[0] * math.log(rest[0] / rest[1])), rest[0]


def _compare(ids: list[int], logprobs: list[float], other_ids: list[int], other: list[float]) -> tuple[float, ...]:
    """(same most likely token, KL in nats, unseen probability) at one position."""
    kl, unseen = lumped_kl_nats(dict(zip(ids, logprobs, strict=True)), dict(zip(other_ids, other, strict=True)))
    return float(not _likeliest(ids, logprobs).isdisjoint(_likeliest(other_ids, other))), kl, unseen


def _likeliest(ids: list[int], logprobs: list[float]) -> set[int]:
    """Mostly one token; 16-bit logits tie now and then."""
    return {token for token, logprob in zip(ids, logprobs, strict=True) if logprob == logprobs[0]}


def _parsed(text: str, tokens: list[int], told: list[dict[str, dict[str, Any]] | None]) -> PromptLogprobs:
    # The first token follows on nothing and has no probability.
    places = [
        sorted(((int(token), float(one["logprob"])) for token, one in (place or {}).items()), key=lambda cell: -cell[1])
        for place in told[1:]
    ]
    return PromptLogprobs(
        text=text,
        tokens=tokens,
        ids=[[token for token, _ in place] for place in places],
        logprobs=[[round(logprob, 6) for _, logprob in place] for place in places],
    )


def _read(path: Path) -> list[PromptLogprobs]:
    try:
        told = [PromptLogprobs.model_validate_json(line) for _, line in lines_of(path) if line]
    except (UnreadableError, ValueError) as error:
        check_not_refused(error, f"reading {path}", path)
        raise StageError(
            f"{path} is damaged: {error}", remedy="run `quantbench artifacts verify`, then run again"
        ) from error
    if not told:
        raise StageError(f"{path} is empty", remedy="run `quantbench artifacts verify`, then run again")
    return told
