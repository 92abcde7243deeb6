"""What is read off prompts: languages, code, and numbers that are the same here and in a gateway."""

import math

import pytest

from registry.prompt_features import LANGUAGES, READ_CHARACTERS, features_of, holds_code, language_of, probability


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of the country that lies to the north of Spain?", "en"),
        ("Wie ist das Wetter in der Stadt, und was ist mit dem Regen von gestern?", "de"),
        ("Quelle est la capitale du pays qui est au nord des Pyrénées et pas dans les îles ?", "fr"),
        ("¿Cuál es la capital del país que está al norte de los Pirineos y no en las islas?", "es"),
        ("Qual è la capitale del paese che non è nel sud e con il mare?", "it"),
        ("Wat is de hoofdstad van het land dat niet aan de zee is en op een berg?", "nl"),
        ("Qual é a capital do país que não está no sul, como mais uma das ilhas?", "pt"),
        ("Какая столица у этой страны?", "ru"),
        ("日本の首都はどこですか", "ja"),
        ("中国的首都是哪里", "zh"),
        ("한국의 수도는 어디입니까", "ko"),
        ("ما هي عاصمة مصر", "ar"),
        ("1 + 2 = 3", ""),
        ("", ""),
        ("Hello", ""),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language
    assert language in LANGUAGES | {""}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nprint(1)\n```", True),
        ("Mend this:\ndef f(x):\n    return x", True),
        ("#include <stdio.h>", True),
        ("int main() {\n  return 0;\n}", True),
        ("const f = x => x", True),
        ("Please say a def of love; it is from above", False),
        ("3 + 4 = 7\n6 + 8 =", False),
        ("", False),
    ],
)
def test_code(text: str, code: bool) -> None:
    assert holds_code(text) == code


def test_features_are_numbers_near_one_and_the_same_each_time() -> None:
    found = features_of("What is 12 + 345?\nSay it.")
    assert found == features_of("What is 12 + 345?\nSay it.")
    assert all(0 < value <= 2 for value in found.values())
    assert {"length", "lines", "digits", "marks", "question"} <= found.keys()
    # Numbers count by how many digits they have, so that no other number is a new word.
    assert features_of("12") == features_of("98")
    assert features_of("") == {}


def test_a_long_text_is_read_from_both_ends() -> None:
    long = "a " * READ_CHARACTERS
    assert features_of(long + "omega")["length"] > features_of("a omega")["length"]
    assert len(features_of(long + "omega")) > len(features_of(long))
    # What lies between costs nothing: it is not read.
    half = READ_CHARACTERS // 2
    middle = features_of("a" * half + "omega ( ) é" * 1000 + "b" * half)
    assert middle.keys() == features_of("a" * half + "b" * half).keys()


@pytest.mark.parametrize("text", ["\ud800", "\0", "\U0001f600" * 50, "٣٤٥", "²" * 9])
def test_odd_texts(text: str) -> None:
    assert all(map(math.isfinite, features_of(text).values()))
    assert language_of(text) in LANGUAGES | {""} and not holds_code(text)


def test_a_probability_is_one_whatever_the_weights() -> None:
    assert probability({"a": 1.0}, {}, 0.0) == 0.5
    assert probability({"a": 1.0}, {"a": 2.0}, -2.0) == 0.5
    assert probability({"a": 1.0}, {"a": 1e9}, 0.0) == 1
    assert 0 <= probability({"a": 1.0}, {"a": -1e9}, 0.0) < 1e-300
