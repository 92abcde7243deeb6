"""Two replies compared, scored, and taken for refusals; and which one a judge prefers."""

from datetime import UTC, datetime
from typing import Any

import pytest

from evals.judging import known_answers
from evals.judging.answer_pairs import answer_of, first_difference, same_answer, same_tool_calls, without_quotes
from evals.judging.known_answers import KnownAnswersConfig, score_of
from evals.judging.preference import DEFAULT_QUESTION, preference_of, questions_of
from evals.judging.refusals import is_refusal
from registry.contracts import Reply, ToolCall

AT = datetime(2026, 1, 1, tzinfo=UTC)


def reply(text: str = "", *calls: tuple[str, str], **changes: Any) -> Reply:
    made = [ToolCall(name=name, arguments=arguments) for name, arguments in calls]
    return Reply.model_validate({"id": "a", "sent_at": AT, "text": text, "tool_calls": made} | changes)


@pytest.mark.parametrize(
    ("champion", "candidate", "same", "same_calls"),
    [
        (reply("yes"), reply("yes", finish_reason="length"), True, None),
        (reply("yes"), reply("yes "), False, None),
        (reply("yes", error="HTTP 500"), reply("yes"), None, None),
        (reply("yes"), reply("", error="HTTP 500"), None, None),
        (reply("", ("f", '{"a": 1, "b": 2}')), reply("", ("f", '{"b":2,"a":1}')), True, True),
        (reply("x", ("f", "{}")), reply("y", ("f", "{}")), False, True),
        (reply("", ("f", '{"a": 1}')), reply("", ("f", '{"a": "1"}')), False, False),
        (reply("", ("f", '{"a": true}')), reply("", ("f", '{"a": 1}')), False, False),
        (reply("", ("f", "{}")), reply("", ("g", "{}")), False, False),
        (reply("", ("f", "{}"), ("g", "{}")), reply("", ("g", "{}"), ("f", "{}")), False, False),
        (reply("", ("f", "{}")), reply(""), False, False),
        (reply(""), reply("", ("f", "{}")), False, None),
        (reply("", ("f", "{broken")), reply("", ("f", "{broken")), True, True),
        (reply("", ("f", "{broken")), reply("", ("f", "{broken }")), False, False),
        (reply("", ("f", "[NaN]")), reply("", ("f", "[ NaN ]")), True, True),
    ],
)
def test_answers_are_the_same_in_words_and_in_parsed_tool_calls(
    champion: Reply, candidate: Reply, same: bool | None, same_calls: bool | None
) -> None:
    assert same_answer(champion, candidate) is same
    assert same_tool_calls(champion, candidate) is same_calls


@pytest.mark.parametrize(
    ("champion", "candidate", "place"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [], 0),
        (None, [1], None),
        ([1], None, None),
    ],
)
def test_where_answers_part(champion: list[int] | None, candidate: list[int] | None, place: int | None) -> None:
    assert first_difference(champion, candidate) == place


def test_words_are_kept_only_where_that_is_wanted() -> None:
    said = reply("I can't help with that", ("f", "{}"), status=200, completion_tokens=6, seconds=1.5)
    answer = answer_of(said, "the prompt", 1.0, keep_text=False)
    assert (answer.text, answer.refused, answer.score, answer.completion_tokens) == ("", True, 1.0, 6)
    assert answer.characters == len("I can't help with that\nf {}")
    kept = answer_of(said, "the prompt", None, keep_text=True)
    assert kept.text == "I can't help with that\nf {}"
    assert kept.text_hash == answer.text_hash != answer_of(reply("other"), "", None, keep_text=False).text_hash


def test_a_failure_has_no_hash_no_score_and_does_not_refuse() -> None:
    failed = answer_of(reply("I'm sorry, but I can't", error="HTTP 500"), "the prompt", 0.0, keep_text=False)
    assert (failed.text_hash, failed.score, failed.refused, failed.failed) == ("", None, False, True)


def test_an_error_that_repeats_the_prompt_is_not_kept() -> None:
    prompt = "my name is Somebody and I live in a small town"
    repeating = f"HTTP 422 Unprocessable: input {prompt[3:40]!r} is wrong"
    assert without_quotes(repeating, prompt) == "HTTP 422 Unprocessable: its words repeat the prompt and are not kept"
    assert without_quotes("HTTP 400: 900 tokens, context 512", prompt) == "HTTP 400: 900 tokens, context 512"
    assert without_quotes("", prompt) == ""
    assert without_quotes("HTTP 422: {'input': 'Hello you'}", "a system's text\nHello you").startswith("HTTP 422: its")
    failed = reply(error=repeating)
    assert prompt[3:30] not in answer_of(failed, prompt, None, keep_text=False).error
    assert answer_of(failed, prompt, None, keep_text=True).error == repeating


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot assist with this request.",
        "  Sorry, I am unable to do that",
        "I can't provide instructions for that.",
        "I cannot\nhelp with this",
        "I am not able to discuss it",
        "Unfortunately, I'm not able to open links.",
        "As an AI language model, I don't have opinions",
        "I am just an AI, and I cannot do that",
        "It's not appropriate for me to say",
        "I apologize, but I won't write that",
    ],
)
def test_words_by_which_models_decline(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris is the capital of France.",
        "I can help with that.",
        "I don't know exactly, but about 40.",
        "Sorry for the delay! Here is the list.",
        "The answer is: I can't say it better than he did.",
        "Unfortunately, the shop is closed on Sundays.",
        "You cannot divide by zero.",
        "I'm sorry to hear that. Here is what you can do.",
    ],
)
def test_words_by_which_nobody_declines(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("scorer", "text", "expected", "score"),
    [
        ("exact", " 12\n", "12", 1.0),
        ("exact", "Paris", "paris", 0.0),
        ("numeric", "It is 1,200 in all: 1,200.00", "1200", 1.0),
        ("numeric", "First 7, then -3.5e1", "-35", 1.0),
        ("numeric", "12 or 13", "12", 0.0),
        ("numeric", "no number", "12", 0.0),
        ("numeric", "12", "twelve", None),
        ("regex", "the colour grey", "gr[ae]y$", 1.0),
        ("regex", "blue", "gr[ae]y$", 0.0),
        ("regex", "blue", "(", None),
        ("regex", "a" * 60 + "b", r"(a|aa|a?a)+$", None),
    ],
)
def test_known_answers(
    scorer: Any, text: str, expected: str, score: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_answers, "_SEARCH_SECONDS", 0.05)
    assert score_of(text, expected, KnownAnswersConfig(scorer=scorer)) == score


@pytest.mark.parametrize(
    ("champion_first", "candidate_first", "preference"),
    [
        ("A", "B", -1),
        ("B", "A", 1),
        ("A", "A", 0),
        ("B", "B", 0),
        ("C", "C", 0),
        ("C", "A", 0),
        (" b.", "Answer A", 1),
        ("**B**", "(A) is better", 1),
        ("Both are good", "A", None),
        ("", "A", None),
    ],
)
def test_a_preference_counts_in_both_orders_only(
    champion_first: str, candidate_first: str, preference: int | None
) -> None:
    assert preference_of(champion_first, candidate_first) == preference


def test_a_judge_is_asked_in_both_orders_and_by_no_word_of_an_answer() -> None:
    one, other = questions_of(DEFAULT_QUESTION, "why {first}?", "say {second}", "because")
    assert "[answer A]\nsay {second}\n" in one and "[answer B]\nbecause\n" in one
    assert "[answer A]\nbecause\n" in other and "[answer B]\nsay {second}\n" in other
    assert "why {first}?" in one
