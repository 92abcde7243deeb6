"""Writes the demo suite's template-made items; `python -m evals.tasks.demo.build --check` verifies them.

The items of `knowledge`, `commonsense` and `language` were written by hand and have no generator.
"""

import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

_FOLDER = Path(__file__).parent
_SEED = 20_240_611
_ITEMS = 400

_PEOPLE = [
    "boy", "girl", "king", "queen", "actor", "actress", "uncle", "aunt", "prince", "princess", "father", "mother",
]  # fmt: skip
_PLACES = ["house", "garden", "school", "river", "market", "station", "window", "table", "forest", "bridge"]
_VERBS = [
    ("runs", "run"), ("sleeps", "sleep"), ("sings", "sing"), ("waits", "wait"), ("works", "work"), ("lives", "live"),
]  # fmt: skip
_PARTICIPLES = [
    ("written", "wrote"), ("eaten", "ate"), ("taken", "took"), ("broken", "broke"),
    ("seen", "saw"), ("forgotten", "forgot"), ("stolen", "stole"), ("chosen", "chose"),
]  # fmt: skip
_MALE = {"boy", "king", "actor", "uncle", "prince", "father"}
_WORDS = [
    "apple", "river", "stone", "green", "music", "winter", "paper", "window", "garden", "silver",
    "coffee", "dragon", "pencil", "bridge", "mother", "flower", "summer", "forest", "yellow", "doctor",
    "market", "orange", "planet", "guitar", "kitchen", "mountain", "blanket", "morning", "village", "chicken",
    "table", "horse", "house", "water", "bread", "chair", "cloud", "tiger", "lemon", "train",
    "ocean", "finger", "candle", "island", "rabbit", "button", "ticket", "carpet", "castle", "bottle",
    "teacher", "picture", "letter", "hammer", "butter", "farmer", "monkey", "basket", "mirror", "dinner",
    "garlic", "purple", "pocket", "spider", "turtle", "saddle", "shadow", "singer", "tunnel", "wallet",
    "pillow", "rocket", "cheese", "anchor", "jacket", "parrot",
]  # fmt: skip
_WITHOUT_PLURAL = {"green", "music", "silver", "yellow", "water", "bread", "butter", "purple", "garlic", "cheese"}


def _choice(kind: str, start: str, good: str, bad: str) -> dict[str, str]:
    return {"kind": kind, "start": start, "good": good, "bad": bad}


def _grammar(_: random.Random) -> Iterator[dict[str, str]]:
    """Which word goes on: agreement, agreement across a phrase, participles, local binding of reflexives."""
    for head, place, (singular, plural) in itertools.product(_PEOPLE, _PLACES, _VERBS):
        many = f"The {head}{'es' if head.endswith('s') else 's'} near the {place}"
        yield _choice("phrase", many, plural, singular)
        yield _choice("phrase", f"The {head} near the {place}s", singular, plural)
    for (head, place), (singular, plural) in itertools.product(itertools.product(_PEOPLE, _PLACES), _VERBS):
        yield _choice("agreement", f"In the {place}, my {head}", singular, plural)
    for head, place, (participle, past) in itertools.product(_PEOPLE, _PLACES, _PARTICIPLES):
        yield _choice("participle", f"The {head} in the {place} has", participle, past)
    for head, other in itertools.permutations(_PEOPLE, 2):
        if (head in _MALE) != (other in _MALE):
            right, wrong = ("himself", "herself") if other in _MALE else ("herself", "himself")
            for verb in ("said", "thought"):
                yield _choice("binding", f"The {head} {verb} the {other} hurt", right, wrong)


def _arithmetic(_: random.Random) -> Iterator[dict[str, str]]:
    """Sums, differences and products of one-digit numbers, and sums of round numbers."""
    for a, b in itertools.product(range(1, 10), repeat=2):
        if (a, b) != (3, 4):  # the prompt's example
            yield {"kind": "sum", "question": f"{a} + {b}", "answer": str(a + b)}
        yield {"kind": "product", "question": f"{a} * {b}", "answer": str(a * b)}
        yield {"kind": "tens", "question": f"{a}0 + {b}0", "answer": f"{a + b}0"}
        yield {"kind": "difference", "question": f"{a + b} - {b}", "answer": str(a)}


def _instruction(_: random.Random) -> Iterator[dict[str, str]]:
    """Short orders, each shown once on other words before it is asked."""
    for a, b in itertools.permutations(_WORDS, 2):
        yield {"kind": "last", "order": f"Last word of dog, sun -> sun\nLast word of {a}, {b} ->", "answer": b}
        yield {"kind": "other", "order": f"dog, sun without dog -> sun\n{a}, {b} without {a} ->", "answer": b}
        yield {"kind": "swap", "order": f"Swap dog, sun -> sun, dog\nSwap {a}, {b} ->", "answer": f"{b}, {a}"}
    for a in _WORDS:
        yield {"kind": "repeat", "order": f"Repeat: dog -> dog\nRepeat: {a} ->", "answer": a}
        yield {"kind": "capitals", "order": f"Capitals: dog -> DOG\nCapitals: {a} ->", "answer": a.upper()}
        if a not in _WITHOUT_PLURAL:
            yield {"kind": "plural", "order": f"Plural: dog -> dogs\nPlural: {a} ->", "answer": a + "s"}


_BUILDERS = {"grammar": _grammar, "arithmetic": _arithmetic, "instruction": _instruction}


def _text(name: str) -> str:
    """The file's content: `_ITEMS` items or fewer, an equal share of each kind, drawn with a fixed seed."""
    rng = random.Random(f"{_SEED}-{name}")  # noqa: S311 - a reproducible draw, nothing secret
    by_kind: dict[str, list[dict[str, str]]] = {}
    for item in _BUILDERS[name](rng):
        by_kind.setdefault(item["kind"], []).append(item)
    share = _ITEMS // len(by_kind)
    items = [item for all_ in by_kind.values() for item in rng.sample(all_, min(share, len(all_)))]
    rng.shuffle(items)
    return "".join(json.dumps(item) + "\n" for item in items)


def main(check: bool) -> int:
    """Write the files, or with `check` report the ones that differ from what would be written."""
    stale = []
    for name in _BUILDERS:
        path, text = _FOLDER / f"{name}.jsonl", _text(name)
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"{', '.join(stale)}: not what this script writes; run it without --check", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
