"""Calibration text from the model itself, where there is no data.

Half of the idea is LLM-QAT's (Liu et al., 2023, arXiv 2305.17888, section 2.1: random first token, then the model's own
distribution), half is Magpie's (Xu et al., 2024, arXiv 2406.08464, section 2.1: an instruct model that is given the
opening of a user turn writes the user's question and then its answer).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantizers.calibration.token_range import refuse_beyond_embedding
from registry.texts import opening_of, text_ids

if TYPE_CHECKING:
    from quantizers.calibration.config import CalibrateJob
    from quantizers.calibration.exclusion import Exclusion
    from registry.stage_process import StageClock

_BATCH_ROWS = 64
"""Enough to keep two cores busy with matrix products; the KV cache of this many rows stays small."""

_ROUNDS = 3
"""Times that rejected rows are sampled anew before the stage says that it cannot."""

_FREE = -1
"""Stands for a token that the model chooses."""

_MARK = "\N{BLACK SQUARE}quantbench\N{BLACK SQUARE}"


def sample_rows(
    job: CalibrateJob, tokenizer: Any, forbidden: Exclusion, clock: StageClock
) -> tuple[list[list[int]], int]:
    """Sample `job.config.samples` rows of `job.config.tokens` token ids.

    With `chat_template` every second row opens as a user turn of the chat template, the others with a random token.
    Every row begins as the model expects a text to begin. The end-of-text token ends nothing: what the model says after
    it is its next document.

    Returns:
        The rows, and how many were rejected because they held an evaluation text.
    """
    config = job.config
    with clock.part("import"):
        import torch
        from transformers import AutoModelForCausalLM
    torch.set_num_threads(job.threads)
    with clock.part("load"):
        model = AutoModelForCausalLM.from_pretrained(job.checkpoint_dir, dtype=getattr(torch, job.dtype))
        model = model.to(job.device).eval()
    generator = torch.Generator(job.device).manual_seed(config.seed)
    rows: list[list[int]] = []
    rejected = 0
    with clock.part("sample"):
        for _ in range(_ROUNDS):
            openings = _openings(tokenizer, job, config.samples - len(rows), generator)
            for batch in openings.split(_BATCH_ROWS):

                def report(length: int, done: int = len(rows), size: int = len(batch)) -> None:
                    clock.progress("sample", done * config.tokens + size * length, config.samples * config.tokens)

                sampled = _continue(model, batch, config.tokens, generator, report).tolist()
                kept = [row for row in sampled if not forbidden.found_in(tokenizer.decode(row))]
                rejected += len(sampled) - len(kept)
                rows += kept
            if len(rows) == config.samples:
                break
    return rows, rejected


def _openings(tokenizer: Any, job: CalibrateJob, rows: int, generator: Any) -> Any:
    """[rows, length] token ids that the rows begin with; _FREE where the model is to choose.

    Rows of both kinds share a batch: a random row has one token set after what begins every text, a chat row the whole
    opening of a user turn.
    """
    import torch

    begin = opening_of(tokenizer)
    special = set(tokenizer.all_special_ids)
    # A tokenizer may know more tokens than the model has an embedding for.
    known = min(len(tokenizer), job.checkpoint.embedding_rows)
    ordinary = torch.tensor([token for token in range(known) if token not in special])
    opening: list[int] = []
    if job.config.chat_template:
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
        opening = text_ids(tokenizer, [rendered.partition(_MARK)[0]])[0]
    refuse_beyond_embedding([begin, opening], tokenizer, job.checkpoint.embedding_rows)
    openings = torch.full((rows, max(len(begin) + 1, len(opening))), _FREE, device=generator.device)
    drawn = torch.randint(len(ordinary), (rows,), generator=generator, device=generator.device)
    openings[:, : len(begin)] = torch.tensor(begin, dtype=openings.dtype, device=generator.device)
    openings[:, len(begin)] = ordinary.to(generator.device)[drawn]
    if opening:
        openings[1::2] = torch.tensor(opening, device=generator.device)
    return openings


def _continue(model: Any, openings: Any, length: int, generator: Any, report: Callable[[int], None]) -> Any:
    """Extend openings to [rows, length] token ids at temperature 1, the whole distribution, with a KV cache."""
    import torch
    from transformers import DynamicCache

    cache, step = DynamicCache(config=model.config), openings[:, :1]
    ids = step
    with torch.inference_mode():
        while ids.shape[1] < length:
            logits = model(step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            step = _draw(logits, generator)
            if ids.shape[1] < openings.shape[1]:
                given = openings[:, ids.shape[1], None]
                step = torch.where(given == _FREE, step, given)
            ids = torch.cat([ids, step], dim=1)
            report(ids.shape[1])
    return ids


def _draw(logits: Any, generator: Any) -> Any:
    """[rows, vocabulary] logits -> [rows, 1] tokens, by the inverse of the cumulative distribution.

    One random number a row; torch.multinomial draws one for each token of the vocabulary, a sixth of the whole time.
    """
    import torch

    cumulative = logits.float().softmax(-1).cumsum(-1)
    drawn = torch.rand(len(logits), 1, generator=generator, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, drawn).clamp_max(logits.shape[-1] - 1)
