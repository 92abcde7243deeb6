"""Token ids of a text as llama.cpp makes them: the reference that a converted tokenizer is held against.

Written from llama.cpp's rules alone (src/llama-vocab.cpp: tokenizer_st_partition, llm_tokenizer_spm_session,
llm_tokenizer_bpe_session), slow and small, and of nothing that writes tokenizers.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterator

from quantizers.checkpoints.gguf_vocabulary import GgufVocabulary

_Priority = Callable[[str, str], float | None]
"""Of joining two neighbours, the smaller the sooner; None where they are not joined."""


class LlamaCpp:
    """llama.cpp's `tokenize(text, add_special=True, parse_special=True)` for one vocabulary."""

    def __init__(self, vocabulary: GgufVocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids = {text: token for token, text in enumerate(vocabulary.tokens)}
        self._ranks = {pair: float(rank) for rank, pair in reversed(list(enumerate(vocabulary.merges)))}
        special = [token for token in range(len(vocabulary.tokens)) if vocabulary.is_special(token)]
        self._special = sorted(special, key=lambda token: -len(vocabulary.tokens[token].encode()))

    def ids(self, text: str) -> list[int]:
        """The text's token ids, those that begin every text included."""
        ids, after_special = list(self._vocabulary.opening), True
        for fragment in self._fragments(text):
            if isinstance(fragment, int):
                ids.append(fragment)
            elif self._vocabulary.kind == "spm":
                prefix = " " if self._vocabulary.add_space_prefix and after_special else ""
                ids += self._spm((prefix + fragment).replace(" ", "\N{LOWER ONE EIGHTH BLOCK}"))
            else:
                ids += [token for word in self._words(fragment) for token in self._bpe(word)]
            after_special = isinstance(fragment, int)
        return ids

    def _fragments(self, text: str) -> list[str | int]:
        """Special tokens, the longest first, and the texts between them."""
        fragments: list[str | int] = [text] if text else []
        for token in self._special:
            wanted = self._vocabulary.tokens[token]
            if wanted in text:
                fragments = [part for one in fragments for part in self._cut(one, token, wanted)]
        return fragments

    def _cut(self, fragment: str | int, token: int, wanted: str) -> Iterator[str | int]:
        if isinstance(fragment, int):
            yield fragment
            return
        for place, part in enumerate(fragment.split(wanted)):
            if place:
                yield token
            rest = part.lstrip(" \t\n\v\f\r") if place and self._vocabulary.strips(token) else part
            if rest:
                yield rest

    def _spm(self, text: str) -> Iterator[int]:
        scores = self._vocabulary.scores

        def priority(left: str, right: str) -> float | None:
            token = self._ids.get(left + right)
            return None if token is None else -scores[token]

        for piece in _joined(list(text), priority):
            if piece in self._ids:
                yield self._ids[piece]
            else:
                yield from (self._ids.get(f"<0x{byte:02X}>", -1) for byte in piece.encode())

    def _words(self, text: str) -> list[str]:
        import regex

        words = [text]
        for split in self._vocabulary.pre.splits:
            words = [part for word in words for part in _pieces(regex.compile(split), word)]
        return words

    def _bpe(self, word: str) -> Iterator[int]:
        spelled = "".join(_alphabet()[byte] for byte in word.encode())
        if self._vocabulary.pre.ignore_merges and spelled in self._ids:
            yield self._ids[spelled]
            return
        for piece in _joined(list(spelled), lambda left, right: self._ranks.get((left, right))):
            # llama.cpp leaves out what is no token.
            found = [piece] if piece in self._ids else list(piece)
            yield from (self._ids[one] for one in found if one in self._ids)


def _joined(symbols: list[str], priority: _Priority) -> list[str]:
    """Join neighbours, the best pair of all first and the leftmost among equals, until no pair is left."""
    before = list(range(-1, len(symbols) - 1))
    after = [*range(1, len(symbols)), -1]
    queue: list[tuple[float, int, str, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (found := priority(symbols[left], symbols[right])) is not None:
            heapq.heappush(queue, (found, left, symbols[left], symbols[right]))

    for place in range(1, len(symbols)):
        offer(place - 1, place)
    while queue:
        _, left, left_text, right_text = heapq.heappop(queue)
        right = after[left]
        # A neighbour may have been joined to another one in the meantime.
        if right < 0 or (symbols[left], symbols[right]) != (left_text, right_text):
            continue
        symbols[left] += symbols[right]
        symbols[right] = ""
        after[left] = after[right]
        if after[left] >= 0:
            before[after[left]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [symbol for symbol in symbols if symbol]


def _pieces(pattern: object, text: str) -> Iterator[str]:
    """What the pattern matches, and what lies between."""
    end = 0
    for match in pattern.finditer(text):  # type: ignore[attr-defined]
        if match.start() == match.end():
            continue
        if match.start() > end:
            yield text[end : match.start()]
        yield match.group()
        end = match.end()
    if end < len(text):
        yield text[end:]


@functools.cache
def _alphabet() -> list[str]:
    """GPT-2's spelling of bytes: printable ones as they are, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(0x100)]
