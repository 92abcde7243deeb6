"""Writes the prompts of the replay's demo; `.venv/bin/python tools/replay_demo.py --check` verifies them.

Bodies of the completions API, since the demo's model is asked without a chat template, each with its class, and its
known answer where it has one.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "configs" / "data" / "replay_demo.jsonl"
_SEED = 20_260_101
_NUMBERS = {"arithmetic": 70, "instruction": 66, "completion": 64}
_WORDS = ("apple", "bridge", "candle", "forest", "garden", "hammer", "island", "lantern", "mirror", "orange", "pencil")
_SUBJECTS = (
    "The best way to keep bread fresh",
    "A good reason to walk to work",
    "What makes a small town quiet",
    "The first thing to do after a storm",
    "The difference between a river and a lake",
    "An easy way to remember a name",
    "The hardest part of learning to cook",
    "What a gardener does in spring",
)
_TURNS = ("is", "is that", "depends on", "was once", "is not only", "for most people is", "in winter is", "at sea is")


def _arithmetic(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Sums and differences below twenty, behind two examples."""
    while True:
        one, other = rng.randint(2, 9), rng.randint(2, 9)
        for task, answer in ((f"{one} + {other} =", one + other), (f"{one + other} - {other} =", one)):
            prompt = f"1 + 2 = 3\n9 - 4 = 5\n{task}"
            yield {"prompt": prompt, "max_tokens": 4, "stop": ["\n"], "expected": str(answer)}


def _instruction(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Short orders, each shown once on other words."""
    while True:
        one, other = rng.sample(_WORDS, 2)
        shown = {
            "Capitals: dog -> DOG\nCapitals: {one} ->": one.upper(),
            "Last word of dog, sun -> sun\nLast word of {one}, {other} ->": other,
            "dog, sun without dog -> sun\n{one}, {other} without {one} ->": other,
        }
        for order, answer in shown.items():
            prompt = order.format(one=one, other=other)
            yield {"prompt": prompt, "max_tokens": 8, "stop": ["\n"], "expected": answer}


def _completion(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Beginnings that go on in many ways."""
    for subject in _SUBJECTS:
        for turn in rng.sample(_TURNS, len(_TURNS)):
            yield {"prompt": f"{subject} {turn}", "max_tokens": 32}


_BUILDERS = {"arithmetic": _arithmetic, "instruction": _instruction, "completion": _completion}


def text() -> str:
    """The file's content: so many different prompts of each class, drawn with a fixed seed."""
    lines = []
    for name, number in _NUMBERS.items():
        rng = random.Random(f"{_SEED}-{name}")  # noqa: S311 - a reproducible draw, nothing secret
        drawn: dict[str, dict[str, Any]] = {}
        for body in _BUILDERS[name](rng):
            drawn.setdefault(body["prompt"], body)
            if len(drawn) == number:
                break
        lines += [json.dumps(body | {"metadata": {"class": name}}) for body in drawn.values()]
    return "\n".join(lines) + "\n"


def main(check: bool) -> int:
    """Write the file, or with `check` say whether it is what would be written."""
    if not check:
        FILE.write_text(text(), encoding="utf-8")
        return 0
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text():
        return 0
    print(f"{FILE.name}: not what this script writes; run it without --check", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
