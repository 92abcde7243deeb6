"""Prompts of exact token lengths, cut from real text, no two of which begin alike.

Random token ids make tokenizers and models do what no user makes them do, and a prompt that is sent twice is read from
the prefix cache. So sentences of a text are put together in random order, from a random word of a first one on.
"""

import random
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

from configs.errors import RequestError, UnreadableError
from configs.reading import text as reading
from configs.reading.json_text import read_json_lines
from serving_checks.load.config import MixName, Prompts

_PREFIX_TOKENS = 16
"""Two prompts have to differ in these: vLLM's smallest block of the prefix cache on a GPU (128 on a CPU)."""
_TRIES = 200
_REMEDY = 'name a UTF-8 text file, or a .jsonl file whose lines are {"text": "..."}'
_CHARACTERS_PER_TOKEN = 12
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str: ...


class Prompt(NamedTuple):
    """A text and its length as the server counts it."""

    text: str
    tokens: int


def read_text(file: Path | None) -> str:
    """The text to cut prompts from.

    Args:
        file: A text, or JSON lines with a `text` each; the package's own prose for None.

    Raises:
        RequestError: The file cannot be read, or a line of it holds no text.
    """
    if file is None:
        return files("serving_checks.load").joinpath("data/prose.txt").read_text(encoding="utf-8")
    try:
        text = "\n".join(_row_texts(file)) if file.suffix == ".jsonl" else reading.read_text(file)
    except UnreadableError as error:
        raise RequestError(f"load.prompts.file: {error.what}", remedy=error.remedy) from None
    if not text.strip():
        raise RequestError(f"load.prompts.file: {file} holds no text", remedy=_REMEDY)
    return text


def _row_texts(file: Path) -> Iterator[str]:
    for line, row in read_json_lines(file):
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise UnreadableError("no `text` in this row", file=file, line=line, remedy=_REMEDY)
        yield text


def text_prompts(tokenizer_dir: str, seed: int) -> Callable[[int], str]:
    """Makes new prompts of as many tokens as asked for, for servers that take texts only."""
    from transformers import AutoTokenizer

    source = PromptSource(AutoTokenizer.from_pretrained(tokenizer_dir), read_text(None), seed)
    return lambda tokens: source.prompt(tokens).text


class PromptSource:
    """Seeded prompts; equal arguments and calls give equal prompts.

    Args:
        tokenizer: The served model's; the server adds its special tokens to a text, so they count here too.
        text: What to cut from.
        seed: Of the choice of sentences.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, seed: int) -> None:
        self._tokenizer = tokenizer
        self._sentences = [sentence.split() for sentence in _SENTENCE_END.split(text) if sentence.strip()]
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._seen: set[tuple[int, ...]] = set()
        self._special_tokens = len(tokenizer.encode("", add_special_tokens=True))

    def mix(self, prompts: Prompts, mix: MixName, count: int) -> list[Prompt]:
        """`count` prompts of a mix: each of its lengths equally often, give or take one, in random order."""
        lengths = prompts.lengths(mix)
        order = [lengths[place % len(lengths)] for place in range(count)]
        self._random.shuffle(order)
        return [self.prompt(tokens) for tokens in order]

    def prompt(self, tokens: int) -> Prompt:
        """A prompt of `tokens` tokens that begins as none before it.

        Raises:
            RequestError: The text is too short for one more, or the special tokens alone are as many.
        """
        for _ in range(_TRIES):
            cut = self._tokenizer.encode(self._draw(tokens), add_special_tokens=False)
            text = self._tokenizer.decode(cut[: tokens - self._special_tokens])
            ids = self._tokenizer.encode(text, add_special_tokens=True)
            # Not every cut is read back as it was made, in the middle of a word say; then another one is drawn.
            begin = tuple(ids[: _PREFIX_TOKENS + self._special_tokens])
            if len(ids) == tokens and begin not in self._seen:
                self._seen.add(begin)
                return Prompt(text, tokens)
        raise RequestError(
            f"{_TRIES} draws gave no new prompt of {tokens} tokens, after {len(self._seen)} others",
            remedy="name a longer text under `prompts.file`, ask for longer prompts or for fewer `requests`",
        )

    def _draw(self, tokens: int) -> str:
        """Words enough for `tokens` tokens: sentences in random order, the first one from a random word on."""
        first = self._random.choice(self._sentences)
        words = chain(first[self._random.randrange(len(first)) :], self._more())
        text, characters = [], 0
        # A tokenizer may know a word whole, or only its bytes: enough for the first, too much for the second.
        while characters < tokens * _CHARACTERS_PER_TOKEN:
            text.append(next(words))
            characters += len(text[-1]) + 1
        return " ".join(text)

    def _more(self) -> Iterator[str]:
        while True:
            yield from self._random.choice(self._sentences)
