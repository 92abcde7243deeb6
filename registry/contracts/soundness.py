"""Whether the baseline is what it should be. Everything is compared with it, so it is proved before anything else."""

from typing import Literal

from registry.contracts.base import DType, Record

Outcome = Literal["pass", "warn", "fail"]


class SoundnessCheck(Record):
    """One question asked of the baseline."""

    name: Literal["finite", "language", "beginning", "answers", "served", "expected"]
    outcome: Outcome
    """`fail` stops the run: nothing is quantized, and nothing compared."""
    detail: str
    """What was seen, with numbers."""
    remedy: str = ""
    """What to do next; empty where nothing is wrong."""


class SoundnessRecord(Record):
    """What transformers computes from the checkpoint on fixed texts, in the dtype in which it will be served.

    Beside it lies what it said about each token, in the form in which a server's answers are kept (`token_logprobs`).
    """

    checkpoint_digest: str
    dtype: DType
    checks: list[SoundnessCheck]
    """`finite`, `language`, `beginning` and `answers`, in this order; `finite` alone where it fails."""
    tokens: int
    """Of the fixed texts, as the tokenizer cuts them."""
    begins_with_bos: bool | None
    """Whether the tokenizer puts its BOS token before a text; None for one that has none."""
    nats_per_token: float | None = None
    """Mean negative log-likelihood of the texts' tokens but their first, texts begun as the tokenizer begins them."""
    other_way_nats_per_token: float | None = None
    """The same of the first texts with a BOS token where the tokenizer puts none, and without where it puts one."""
    probe_prompt: str
    probe_answer: str = ""
    """The greedy answer through transformers."""
