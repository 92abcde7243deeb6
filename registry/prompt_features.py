"""What is read off a prompt's text before it is answered: its language, code in it, and numbers for a classifier.

The same here when a classifier is trained and in a gateway when it is asked, so both lie below either. Of a long text
its beginning and its end are read, since a gateway has no time for more: a few hundred microseconds.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping

READ_CHARACTERS = 3000
"""Half of them from each end."""
_LANGUAGE_CHARACTERS = 1000
BUCKETS = 1024
"""So many places for words; two that share one count as one word."""
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT, _CAPITAL = re.compile(r"\d"), re.compile(r"[A-Z]")
_LETTERS = re.compile(r"[^\W\d_]+")
_CODE = re.compile(
    r"```|^\s*(?:def |class |import |from \S+ import |#include|public |private |func |fn |SELECT .* FROM )|[;{}]\s*$"
    r"|=>|\)\s*:\s*$|</\w+>",
    re.MULTILINE,
)
_LEAST_WORDS = 3
"""Function words that a text needs for its language to be known."""
_FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "de": "der die das und ist nicht ein eine zu den mit von auf für im sich dem wie ich auch wir sind oder bei",
        "en": "the of and to in is that it for was on are with as be this have from or by not what you how which",
        "es": "el la de que y en los se del las por un una para con no su al es como más pero sus este qué",
        "fr": "le la les de des et en un une du est que pour dans qui sur au pas par avec il ce nous vous sont",
        "it": "il di che la e un una per in non con del della le si dei sono gli al come più è nel questo",
        "nl": "de het een en van ik te dat die in is niet zijn op aan met voor er maar om hem dan zou of wat",
        "pt": "o a de que e do da em um para com não uma os no se na por mais as dos como mas ao ele é",
    }.items()
}
_SCRIPTS: tuple[tuple[str, int, int], ...] = (
    ("ja", 0x3040, 0x30FF),
    ("ko", 0xAC00, 0xD7AF),
    ("zh", 0x4E00, 0x9FFF),
    ("ru", 0x0400, 0x04FF),
    ("el", 0x0370, 0x03FF),
    ("ar", 0x0600, 0x06FF),
    ("he", 0x0590, 0x05FF),
    ("hi", 0x0900, 0x097F),
    ("th", 0x0E00, 0x0E7F),
)
"""Scripts that tell a language, or the one of several that is met most: first and last character."""
LANGUAGES = frozenset(_FUNCTION_WORDS) | {name for name, _, _ in _SCRIPTS}


def language_of(text: str) -> str:
    """The ISO 639-1 code of the text's language among LANGUAGES; empty where too little of its beginning tells one.

    A fifth of the letters in a script of its own tells it; else the language whose function words there are most of,
    and at least three.
    """
    words = _LETTERS.findall(text[:_LANGUAGE_CHARACTERS])
    letters = "".join(words)
    if not letters.isascii():
        for name, first, last in _SCRIPTS:
            if sum(first <= ord(letter) <= last for letter in letters) * 5 > len(letters):
                return name
    counts = Counter(word.lower() for word in words)
    found = {name: sum(counts[word] for word in known) for name, known in _FUNCTION_WORDS.items()}
    (most, name), (next_most, _) = sorted(((count, name) for name, count in found.items()), reverse=True)[:2]
    return name if most >= _LEAST_WORDS and most > next_most else ""


def holds_code(text: str) -> bool:
    """Whether there is code in it, by fences, declarations and ends of lines."""
    return _CODE.search(_read_part(text)) is not None


def features_of(text: str) -> dict[str, float]:
    """What a classifier sees of a text: a name and a number near 1 for each feature that is not 0."""
    part = _read_part(text)
    tokens = _WORD.findall(part)
    share = 1 / max(1, len(part))
    marks = sum(len(token) == 1 and not token.isalnum() for token in tokens)
    found = {
        "length": math.log1p(len(text)) / 5,
        "lines": math.log1p(part.count("\n")) / 2,
        "digits": len(_DIGIT.findall(part)) * share * 5,
        "marks": marks * share * 5,
        "capitals": len(_CAPITAL.findall(part)) * share * 5,
        "not_ascii": (len(part) - len(part.encode("ascii", "ignore"))) * share,
        "question": float("?" in part),
        "code": float(holds_code(part)),
    }
    counts: Counter[str] = Counter()
    for token, count in Counter(tokens).items():
        counts[_place_of(token)] += count
    norm = math.sqrt(sum(count * count for count in counts.values())) or 1.0
    return {name: value for name, value in found.items() if value} | {
        name: count / norm for name, count in counts.items()
    }


def probability(features: Mapping[str, float], weights: Mapping[str, float], intercept: float) -> float:
    """Of a logistic regression."""
    total = intercept + sum(value * weights.get(name, 0.0) for name, value in features.items())
    # exp of a large number is none.
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, total))))


def _place_of(token: str) -> str:
    """A hashed place for a word; numbers count by how many digits they have."""
    word = f"#{len(token)}" if token.isdigit() else token.lower()
    return f"w{zlib.crc32(word.encode(errors='replace')) % BUCKETS}"


def _read_part(text: str) -> str:
    half = READ_CHARACTERS // 2
    return text if len(text) <= READ_CHARACTERS else text[:half] + text[-half:]
