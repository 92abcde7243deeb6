"""Which of two answers a judge model prefers, asked in both orders: judges favour a place (Zheng et al., 2023, "Judging
LLM-as-a-Judge with MT-Bench and Chatbot Arena", section 3.4)."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

DEFAULT_QUESTION = """\
Two assistants answered the same request. Judge which answer serves the one who asked better: correct, complete, and to
the point. Longer is not better.

[request]
{prompt}

[answer A]
{first}

[answer B]
{second}

Reply with one letter: A, B, or C for a tie.
"""
_PLACES = re.compile(r"\{(prompt|first|second)\}")
_LETTER = re.compile(r"^\W*(?:answer\s+)?([ABC])\b", re.IGNORECASE)
_VALUES = {"A": -1, "B": 1, "C": 0}


def _has_places(question: str) -> str:
    missing = {"prompt", "first", "second"} - set(_PLACES.findall(question))
    if missing:
        raise ValueError("it lacks " + " and ".join(f"{{{name}}}" for name in sorted(missing)))
    return question


Question = Annotated[str, Field(max_length=20_000), AfterValidator(_has_places)]
"""With the places {prompt}, {first} and {second}."""


def questions_of(question: Question, prompt: str, champion: str, candidate: str) -> tuple[str, str]:
    """What the judge is asked: the champion's answer first, then the candidate's first."""

    def filled(first: str, second: str) -> str:
        # In one pass: an answer may hold the name of a place.
        values = {"prompt": prompt, "first": first, "second": second}
        return _PLACES.sub(lambda match: values[match[1]], question)

    return filled(champion, candidate), filled(candidate, champion)


def preference_of(champion_first: str, candidate_first: str) -> int | None:
    """1 for the candidate, -1 for the champion, 0 for a tie or two opinions; None where one answer is no letter.

    Args:
        champion_first: The judge's words where the champion's answer was A.
        candidate_first: Where the candidate's was.
    """
    letters = [_LETTER.search(told) for told in (champion_first, candidate_first)]
    if letters[0] is None or letters[1] is None:
        return None
    one, other = _VALUES[letters[0][1].upper()], -_VALUES[letters[1][1].upper()]
    return one if one == other else 0
