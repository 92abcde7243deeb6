"""The soundness stage: is the checkpoint the model that it should be? Asked of transformers, before anything is served.

Everything is compared with the baseline, so one that is ruined makes every artifact look faithful: a model that lost
its BOS token scored 0.03 instead of 0.64, and INT8 kept 1.00 of that. Thresholds lie between what sound and ruined
models gave; docs/findings.md has the figures.
"""

from __future__ import annotations

import importlib.metadata
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import blaming
from quantizers.calibration.token_range import refuse_beyond_embedding
from registry.contracts import CheckpointRecord, FilesJob, PromptLogprobs, SoundnessCheck, SoundnessRecord
from registry.contracts.base import Device, DType
from registry.contracts.token_logprobs import TOKEN_LOGPROBS_FILE, TOP_LOGPROBS
from registry.files import write_text_atomically
from registry.texts import opening_of, text_ids

if TYPE_CHECKING:
    import torch

    from registry.stage_process import StageClock

PROBE_PROMPT = "The capital of France is"

CLEARLY_BETTER_NATS = 0.5
"""A token: a perplexity 1.65 times lower. A sound model gave 0.05 either way, one without its BOS token 3.1."""
DOUBTFUL_NATS = 0.1
_CLEAR_STDERRS = 4.0

LEARNED_NATS = 1.0
"""A model that is less than this better than a guess among all its tokens knows nothing of these texts."""

LOOP_TOKENS = 6
"""A continuation of 24 tokens with so few different ones goes round in circles. Of 16 texts that two sound models of
135 and 270 M parameters continued greedily none did, and 13 did without a BOS token that was due."""
_LOOPING_SHARE = 0.5
_CONTINUED_TEXTS, _CONTINUED_TOKENS = 8, 24

_BOTH_WAYS_TEXTS = 16
"""So many texts are scored the other way too; the difference is far larger than its standard error over them."""
_BATCH_TEXTS = 8


class SoundnessJob(FilesJob):
    """Ask the checkpoint; `output_dir` gets what it said about each token of the texts."""

    checkpoint_dir: Path
    checkpoint: CheckpointRecord
    texts: list[str]
    device: Device
    dtype: DType
    """What the baseline is going to be served in."""
    threads: int


class Beginnings(NamedTuple):
    """The texts' token ids, begun as the tokenizer begins them, and some of them the other way."""

    own: list[list[int]]
    other: list[list[int]] | None
    """With a BOS token where the tokenizer puts none, and without where it does; None where there is no such token."""
    bos: str

    @property
    def with_bos(self) -> bool | None:
        return None if self.other is None else len(self.own[0]) > len(self.other[0])


def prove_soundness(job: SoundnessJob, clock: StageClock) -> tuple[SoundnessRecord, dict[str, str]]:
    """Answer every question; a failed check is a result here, and no exception.

    Returns:
        The record, and distribution name -> version of the libraries that computed it.
    """
    with clock.part("import"):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(job.threads)
    with clock.part("load"):
        tokenizer = AutoTokenizer.from_pretrained(job.checkpoint_dir)
        # A model that is larger than the GPU's memory is spread over GPU and host.
        placed = "auto" if job.device == "cuda" else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(
            job.checkpoint_dir, dtype=getattr(torch, job.dtype), device_map=placed
        ).eval()
    begun = beginnings(tokenizer, job.texts)
    with blaming("source"):
        refuse_beyond_embedding(begun.own, tokenizer, job.checkpoint.embedding_rows, "soundness text")
    checks: list[SoundnessCheck] = []
    facts: dict[str, Any] = {}
    with clock.part("score"):
        own, broken = _scored(model, begun.own, job.texts, leading=int(begun.with_bos or False))
        checks.append(check_finite(_culprit(model, broken) if broken else None, job.dtype))
        other = None
        if begun.other and not broken:
            other, _ = _scored(model, begun.other, job.texts, leading=int(not begun.with_bos))
    lines = "".join(line.model_dump_json() + "\n" for line in own.lines)
    write_text_atomically(job.output_dir / TOKEN_LOGPROBS_FILE, lines)
    if not broken:
        facts["nats_per_token"] = own.nats_per_token
        facts["other_way_nats_per_token"] = other.nats_per_token if other else None
        language = check_language(own.nats_per_token, model.config.vocab_size)
        checks += [language, check_beginning(own, other, begun)]
        with clock.part("answer"):
            # One batch: the texts' beginnings are as long as the probe.
            probe = text_ids(tokenizer, [PROBE_PROMPT])[0]
            asked = [probe, *(ids[: len(probe)] for ids in begun.own[:_CONTINUED_TEXTS])]
            answer, *continued = _continued(model, asked)
        checks.append(check_answers(continued, tokenizer, learned=language.outcome == "pass"))
        facts["probe_answer"] = tokenizer.decode(answer)
    record = SoundnessRecord(
        checkpoint_digest=job.checkpoint.digest,
        dtype=job.dtype,
        checks=checks,
        tokens=sum(map(len, begun.own)),
        begins_with_bos=begun.with_bos,
        probe_prompt=PROBE_PROMPT,
        **facts,
    )
    return record, {name: importlib.metadata.version(name) for name in ("transformers", "torch", "safetensors")}


def beginnings(tokenizer: Any, texts: Sequence[str]) -> Beginnings:
    """The texts in tokens, both ways."""
    own = text_ids(tokenizer, texts)
    bos = tokenizer.bos_token_id
    if bos is None:
        return Beginnings(own, None, "")
    begins = bos in opening_of(tokenizer)
    other = [[one for one in ids if one != bos] if begins else [bos, *ids] for ids in own[:_BOTH_WAYS_TEXTS]]
    return Beginnings(own, other, str(tokenizer.bos_token))


class Scored(NamedTuple):
    """What the model said about the texts, one entry a text."""

    lines: list[PromptLogprobs]
    nats: list[float]
    """Negative log-likelihood of the text's tokens but its first: a BOS token before it is none of them."""
    counts: list[int]
    """Of these tokens."""

    def first(self, texts: int) -> Scored:
        """The first so many texts."""
        return Scored(self.lines[:texts], self.nats[:texts], self.counts[:texts])

    @property
    def nats_per_token(self) -> float:
        return sum(self.nats) / sum(self.counts)


def check_finite(culprit: str | None, dtype: DType) -> SoundnessCheck:
    """No logit is infinite or no number.

    Args:
        culprit: The module that gave the first one, and why.
    """
    if culprit is None:
        return SoundnessCheck(name="finite", outcome="pass", detail=f"all logits are finite in {dtype}")
    return SoundnessCheck(
        name="finite",
        outcome="fail",
        detail=f"the logits are not finite in {dtype}: {culprit}",
        remedy="weights that are no numbers: fetch the checkpoint again. Sound weights that overflow: set dtype.serve"
        " to bfloat16 or float32",
    )


def check_language(nats_per_token: float, vocabulary: int) -> SoundnessCheck:
    """The model predicts real text better than a guess among all tokens. One that does not is told of, and no more: it
    may be a random model that somebody tries the pipeline with."""
    guess = math.log(vocabulary)
    detail = f"perplexity {math.exp(nats_per_token):.4g} a token on fixed texts, where a guess has {vocabulary:,}"
    if nats_per_token < guess - LEARNED_NATS:
        return SoundnessCheck(name="language", outcome="pass", detail=detail)
    return SoundnessCheck(
        name="language",
        outcome="warn",
        detail=f"{detail}: the model has learned nothing of them, so its scores, and what is kept of them, say nothing",
        remedy="see that weights and tokenizer belong together, unless the model is a random one for a trial",
    )


def check_beginning(own: Scored, other: Scored | None, begun: Beginnings) -> SoundnessCheck:
    """A text begins as the model expects it to: with its BOS token, or without."""
    if other is None:
        return SoundnessCheck(name="beginning", outcome="pass", detail="the tokenizer has no BOS token to begin with")
    own = own.first(len(other.nats))
    gains = [(a - b) / count for a, b, count in zip(own.nats, other.nats, own.counts, strict=True)]
    gain, stderr = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
    clear = gain > _CLEAR_STDERRS * stderr
    way, other_way = ("with", "without") if begun.with_bos else ("without", "with")
    detail = (
        f"the tokenizer begins texts {way} {begun.bos}: perplexity {math.exp(own.nats_per_token):.4g} a token over"
        f" {len(gains)} texts, and {other_way} it {math.exp(other.nats_per_token):.4g}"
    )
    if not clear or gain <= DOUBTFUL_NATS:
        return SoundnessCheck(name="beginning", outcome="pass", detail=detail)
    wanted = "false" if begun.with_bos else "true"
    return SoundnessCheck(
        name="beginning",
        outcome="fail" if gain > CLEARLY_BETTER_NATS else "warn",
        detail=f"{detail}: the model expects a text to begin the other way",
        remedy=f"set add_bos_token: {wanted} in tokenizer_config.json (and the template in tokenizer.json's"
        " post_processor), or take the tokenizer from where the model was published",
    )


def check_answers(continued: Sequence[Sequence[int]], tokenizer: Any, *, learned: bool) -> SoundnessCheck:
    """Greedy continuations of the texts' beginnings do not go round in circles, most of them.

    Args:
        continued: Token ids of each continuation.
        tokenizer: Makes the worst one readable.
        learned: Whether the model is better than a guess: one that is not repeats itself, sound as it may be.
    """
    looping = [ids for ids in continued if len(set(ids)) <= LOOP_TOKENS]
    detail = f"{len(looping)} of {len(continued)} greedy continuations go round in circles"
    if looping:
        worst = min(looping, key=lambda ids: len(set(ids)))
        detail += f", such as {tokenizer.decode(worst)[:60]!r}"
    if len(looping) < _LOOPING_SHARE * len(continued):
        return SoundnessCheck(name="answers", outcome="pass", detail=detail)
    if not learned:
        return SoundnessCheck(name="answers", outcome="pass", detail=f"{detail}; a model that guesses may do so")
    return SoundnessCheck(
        name="answers",
        outcome="fail",
        detail=f"{detail}: the model is broken, or is not asked as it expects",
        remedy="compare tokenizer, config.json and weights with what the model's publisher offers",
    )


def _scored(
    model: Any, ids_of_texts: Sequence[list[int]], texts: Sequence[str], *, leading: int
) -> tuple[Scored, list[int]]:
    """What the model says of all texts; beside it the token ids of the first one that gave what is not finite.

    Args:
        leading: Tokens before each text. With one the text's first token has a probability, which is left out: both
            ways score the same tokens.
    """
    found = Scored([], [], [])
    for text, ids, logits in zip(texts, ids_of_texts, _logits(model, ids_of_texts), strict=False):
        if not logits.isfinite().all():
            return found, ids
        logprobs = logits.log_softmax(-1)
        line = _line(text, ids, logprobs)
        own = logprobs.gather(1, logprobs.new_tensor(ids[1:]).long()[:, None])[:, 0]
        own = own[leading:]
        found.lines.append(line)
        found.nats.append(-float(own.sum()))
        found.counts.append(len(own))
    return found, []


def _logits(model: Any, ids_of_texts: Sequence[list[int]]) -> Iterator[torch.Tensor]:
    """[tokens - 1, vocabulary] of each text, in float32: what the model says of each token but the first."""
    import torch

    for first in range(0, len(ids_of_texts), _BATCH_TEXTS):
        batch = ids_of_texts[first : first + _BATCH_TEXTS]
        length = max(map(len, batch))
        # Padded behind: what comes later changes nothing before it.
        padded = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in batch], device=model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in batch], device=model.device)
        with torch.inference_mode():
            logits = model(padded, attention_mask=mask, use_cache=False).logits
        for row, ids in zip(logits, batch, strict=True):
            yield row[: len(ids) - 1].float()


def _line(text: str, ids: list[int], logprobs: torch.Tensor) -> PromptLogprobs:
    """As a server tells it: the most likely tokens and the text's own."""
    top, places = logprobs.topk(min(TOP_LOGPROBS, logprobs.shape[1]))
    cells = []
    for position, token in enumerate(ids[1:]):
        told = dict(zip(places[position].tolist(), top[position].tolist(), strict=True))
        told.setdefault(token, float(logprobs[position, token]))
        cells.append(sorted(told.items(), key=lambda cell: -cell[1]))
    return PromptLogprobs(
        text=text,
        tokens=ids,
        ids=[[token for token, _ in place] for place in cells],
        logprobs=[[round(logprob, 6) for _, logprob in place] for place in cells],
    )


def _continued(model: Any, beginnings: Sequence[list[int]]) -> list[list[int]]:
    """Greedy continuations of token ids, all of one length."""
    import torch
    from transformers import GenerationConfig

    given, length = torch.tensor(beginnings, device=model.device), len(beginnings[0])
    # Not the checkpoint's: a repetition penalty in it would hide what is looked for.
    ends = model.config.eos_token_id
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=_CONTINUED_TOKENS,
        min_new_tokens=_CONTINUED_TOKENS if ends is not None else None,
        eos_token_id=ends,
        pad_token_id=0,
    )
    with torch.inference_mode():
        made = model.generate(given, attention_mask=torch.ones_like(given))
    return [row[length:].tolist() for row in made]


def _culprit(model: Any, ids: list[int]) -> str:
    """The first module whose output is not finite although its input was, and whether its weights are to blame."""
    import torch

    found: list[str] = []

    def watch(name: str, module: Any) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            made = output[0] if isinstance(output, tuple) else output
            if found or not isinstance(made, torch.Tensor) or bool(made.isfinite().all()):
                return
            own = module.parameters(recurse=False)
            why = (
                "its weights hold what is no number"
                if any(not bool(one.isfinite().all()) for one in own)
                else ("its output is beyond what the dtype holds")
            )
            found.append(f"{name} is the first module to give what is no number; {why}")

        return module.register_forward_hook(hook)

    hooks = [watch(name, module) for name, module in model.named_modules() if not list(module.children())]
    with torch.inference_mode():
        model(torch.tensor([ids], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found[0] if found else "no module by itself, so the logits' own scale is beyond what the dtype holds"
