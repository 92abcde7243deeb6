"""How a task wants its texts written: its `generation_kwargs`, read with lm-eval's own defaults and for nothing else.

lm-eval hands a task's keys on to whichever model answers, and each of its models leaves some of them out. So what is
meant by a key that is not there, and what by a key that no server of ours knows, has one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.errors import RequestError

DEFAULT_MAX_TOKENS = 256
"""Of lm-eval's `hf`, `vllm` and `local-completions`."""
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of one thing; the first that is there counts."""
_READ = {"until", "do_sample", "temperature", *_LENGTHS}
_PLAIN: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
"""What a server is told where a task says nothing, as by lm-eval's `vllm`. Left out, a model's generation_config.json
would fill it in, penalties included."""
_WITHOUT_EFFECT = {"num_beams": 1, "num_return_sequences": 1}


@dataclass(frozen=True)
class Generation:
    """How one text is to be written."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    """The task's; what ends a text of the model, its tokenizer knows."""
    temperature: float = 0.0
    sampling: Mapping[str, float] = field(default_factory=lambda: dict(_PLAIN))


def generation(task: str, wanted: Mapping[str, Any] | None) -> Generation:
    """Read a task's `generation_kwargs`.

    Raises:
        RequestError: A key asks for what a server of ours would not do, or a value is not of its kind.
    """
    check_generation(task, wanted)
    from lm_eval.models.utils import normalize_gen_kwargs

    try:
        read = normalize_gen_kwargs(dict(wanted or {}), DEFAULT_MAX_TOKENS)
        found = Generation(
            max_tokens=int(read["max_gen_toks"]),
            stop=tuple(text for text in read["until"] if text),
            # Not always there, although lm-eval's docstring says so.
            temperature=float(read.get("temperature", 0.0)),
            sampling={name: type(plain)(read.get(name, plain)) for name, plain in _PLAIN.items()},
        )
    except (TypeError, ValueError) as error:
        raise _refused(task, f"generation settings that cannot be read: {error}") from error
    if found.max_tokens < 1 or found.temperature < 0 or not all(isinstance(text, str) for text in found.stop):
        raise _refused(task, f"generation settings that no server takes: {dict(wanted or {})}")
    return found


def most_tokens(wanted: Mapping[str, Any] | None) -> int:
    """How long an answer may get; as `generation` reads it, without importing anything."""
    return next((int(wanted[name]) for name in _LENGTHS if wanted and wanted.get(name) is not None), DEFAULT_MAX_TOKENS)


def check_generation(task: str, wanted: Mapping[str, Any] | None) -> None:
    """Refuse settings that a server would pass over in silence. Imports nothing, so it comes before any work.

    Raises:
        RequestError: There is such a setting.
    """
    for name, value in (wanted or {}).items():
        known = name in _READ or name in _PLAIN or _WITHOUT_EFFECT.get(name) == value
        if not known:
            raise _refused(task, f"`{name}: {value}` of its generation, which the server would pass over")


def _refused(task: str, what: str) -> RequestError:
    return RequestError(f"task {task} asks for {what}", remedy="leave the task out of a copy of the suite's file")
