"""Logs of requests: three formats, lines that hold no prompt, the order, classes and known answers."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from registry.hashing import digest_of
from serving_checks.replay.classes import ClassesConfig
from serving_checks.replay.config import PromptsConfig
from serving_checks.replay.prompts import ReadPrompts, read_prompts

CHAT = {"model": "gpt", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.5, "stream": True}
COMPLETION = {"model": "gpt", "prompt": "Once upon", "max_tokens": 9}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
LITELLM = {
    "id": "1",
    "call_type": "acompletion",
    "model": "openai/gpt",
    "messages": [{"role": "user", "content": "Hello"}],
    "model_parameters": {"temperature": 0.5, "stream": True, "tools": TOOLS},
    "metadata": {"user_api_key_alias": "team", "requester_metadata": {"kind": "greeting"}},
    "response": {"choices": []},
}


def trace(*spans: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """As MLflow's Trace.to_json() writes it: attributes are JSON texts."""
    return {
        "info": {"trace_id": "tr-1", "trace_metadata": {"mlflow.user": "me"}, "tags": {"kind": "greeting"}},
        "data": {
            "spans": [
                {
                    "name": kind,
                    "attributes": {"mlflow.spanType": json.dumps(kind), "mlflow.spanInputs": json.dumps(inputs)},
                }
                for kind, inputs in spans
            ]
        },
    }


def log(folder: Path, *lines: Any) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def read(path: Path, classes: ClassesConfig | None = None, expected: str | None = None, **config: Any) -> ReadPrompts:
    return read_prompts(PromptsConfig(file=path, **config), classes, expected)


def test_bodies_are_kept_but_for_what_is_set_here(tmp_path: Path) -> None:
    body = CHAT | {"tools": TOOLS, "tool_choice": "auto", "response_format": {"type": "json_object"}, "n": 4}
    batch = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": COMPLETION}
    found = read(log(tmp_path, body, "", COMPLETION, batch))
    assert (found.record.format, found.record.lines, found.record.broken, found.record.prompts) == ("openai", 3, 0, 3)
    (chat,) = (prompt for prompt in found.prompts if prompt.chat)
    assert chat.body == {
        "messages": CHAT["messages"],
        "temperature": 0.5,
        "tools": TOOLS,
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
    }
    assert (chat.text, chat.hash) == ("Hello", digest_of(chat.body))
    # Two lines that ask the same are two prompts with ids of their own.
    assert [prompt.body for prompt in found.prompts if not prompt.chat] == [
        {"prompt": "Once upon", "max_tokens": 9}
    ] * 2
    assert len({prompt.id for prompt in found.prompts}) == 3


def test_litellm_s_lines_are_known_by_their_keys(tmp_path: Path) -> None:
    text = LITELLM | {"call_type": "atext_completion", "messages": [{"role": "user", "content": "Once"}]}
    found = read(
        log(tmp_path, LITELLM, {"standard_logging_object": text}), ClassesConfig(metadata="kind"), most_broken=0
    )
    assert found.record.format == "litellm"
    chat, completion = sorted(found.prompts, key=lambda prompt: not prompt.chat)
    assert chat.body == {"messages": LITELLM["messages"], "temperature": 0.5, "tools": TOOLS}
    assert chat.prompt_class == "greeting"
    assert completion.body == {"prompt": "Once", "temperature": 0.5, "tools": TOOLS}


def test_each_model_call_of_a_trace_is_a_prompt(tmp_path: Path) -> None:
    agent = ("AGENT", {"messages": CHAT["messages"]})
    calls = ("CHAT_MODEL", CHAT | {"extra_headers": {"key": "secret"}, "extra_body": {"top_k": 3}}), ("LLM", COMPLETION)
    row = {"trace_id": "tr-1", "trace": json.dumps(trace(agent))}
    found = read(log(tmp_path, trace(agent, *calls), row), ClassesConfig(metadata="kind"))
    assert found.record.format == "mlflow"
    bodies = sorted((prompt.body for prompt in found.prompts), key=lambda body: (len(body), str(body)))
    assert bodies == [
        {"messages": CHAT["messages"]},
        {"prompt": "Once upon", "max_tokens": 9},
        {"messages": CHAT["messages"], "temperature": 0.5, "top_k": 3},
    ]
    assert {prompt.prompt_class for prompt in found.prompts} == {"greeting"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"messages": [', "not JSON"),
        ('{"prompt": "a", "prompt": "b"}', "no strict JSON"),
        ("[1]", "no JSON object"),
        ({"messages": []}, "no list, or an empty one"),
        ({"messages": "hi"}, "no list, or an empty one"),
        ({"messages": [{"content": "hi"}]}, "no role"),
        ({"messages": [{"role": "user", "content": 3}]}, "neither a text nor a list"),
        ({"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": None}]}, "no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url: only texts"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio: only texts"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "something else than text"),
        ({"prompt": [1, 2, 3]}, "neither `messages` nor a `prompt` of one text"),
        ({"prompt": ["a", "b"]}, "neither `messages` nor a `prompt` of one text"),
        ({"prompt": ""}, "no text"),
        ({"input": "hi"}, "neither `messages` nor a `prompt` of one text"),
        ({"body": 3, "url": "/v1/completions"}, "`body` is no JSON object"),
    ],
)
def test_a_line_without_a_prompt_is_told_and_left_out(tmp_path: Path, line: Any, why: str) -> None:
    found = read(log(tmp_path, *[CHAT] * 10, line))
    assert (found.record.lines, found.record.broken, len(found.prompts)) == (11, 1, 10)
    (told,) = found.record.broken_lines
    assert told.startswith("line 11: ") and why in told


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (LITELLM | {"call_type": "aembedding"}, "neither a chat nor a completion"),
        (LITELLM | {"messages": [{"role": "user", "content": "redacted-by-litellm"}]}, "redacted"),
        (LITELLM | {"model_parameters": "x"}, "`model_parameters` are no JSON object"),
        ({"standard_logging_object": 3}, "no JSON object"),
        (trace(("TOOL", {"x": 1})), "call_type"),
    ],
)
def test_a_line_of_litellm_without_a_prompt_is_left_out(tmp_path: Path, line: Any, why: str) -> None:
    found = read(log(tmp_path, *[LITELLM] * 10, line), format="litellm")
    assert why in found.record.broken_lines[0]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (trace(("TOOL", {"x": 1})), "no span of it"),
        ({"info": {}, "data": {"spans": [{"attributes": {"mlflow.spanInputs": "{"}}]}}, "JSON text in it is broken"),
        ({"info": {}, "data": {}}, "no trace with `data.spans`"),
        ({"trace": "[]"}, "`trace` is no JSON object"),
    ],
)
def test_a_trace_without_a_prompt_is_left_out(tmp_path: Path, line: Any, why: str) -> None:
    found = read(log(tmp_path, *[trace(("LLM", COMPLETION))] * 10, line), format="mlflow")
    assert why in found.record.broken_lines[0]


def test_nothing_of_a_broken_line_is_told(tmp_path: Path) -> None:
    found = read(log(tmp_path, *[CHAT] * 20, '{"my secret": 1, "my secret": 2}', '{"prompt": "my secret\\u0000"}'))
    assert found.record.broken == 2
    assert "secret" not in str(found.record)


def test_too_many_broken_lines_are_refused(tmp_path: Path) -> None:
    path = log(tmp_path, *[CHAT] * 8, "{", "{")
    with pytest.raises(RequestError, match="2 of 10 lines hold no prompt") as caught:
        read(path)
    assert "line 9: not JSON" in caught.value.what and "most_broken" in caught.value.remedy
    assert len(read(path, most_broken=0.2).prompts) == 8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"{\n", "1 of 1 lines hold no prompt"),
        ('{"prompt": "gr\u00fcn"}\n'.encode("latin-1"), "not UTF-8"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b'{"prompt": "a\x00b"}', "NUL"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=says):
        read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read(tmp_path / "none.jsonl")


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("configs.reading.text.LINE_BYTES", 1 << 10)
    with pytest.raises(RequestError, match=r"log.jsonl:2: the line is longer"):
        read(log(tmp_path, CHAT, {"prompt": "x" * 4096}))


def test_a_log_of_two_formats_is_refused(tmp_path: Path) -> None:
    path = log(tmp_path, CHAT, LITELLM)
    with pytest.raises(RequestError, match="several formats: litellm, openai"):
        read(path)
    # LiteLLM's line has messages too.
    assert read(path, format="openai").record.prompts == 2


def test_the_order_is_drawn_and_a_limit_takes_its_beginning(tmp_path: Path) -> None:
    path = log(tmp_path, *({"prompt": f"number {number}"} for number in range(50)))
    whole = read(path).prompts
    assert [prompt.number for prompt in whole] == list(range(50))
    assert [prompt.text for prompt in whole] != [f"number {number}" for number in range(50)]
    assert read(path).prompts == whole
    assert read(path, limit=9).prompts == whole[:9]
    assert read(path, limit=9).record.prompts == 9
    other = read(path, seed=1).prompts
    assert [prompt.id for prompt in other] != [prompt.id for prompt in whole]
    # The place in the order is no part of what a prompt is known by.
    assert {prompt.id for prompt in other} == {prompt.id for prompt in whole}


def test_classes_come_from_rules_in_their_order(tmp_path: Path) -> None:
    rules = [{"name": "sum", "pattern": r"\d \+ \d"}, {"name": "number", "pattern": r"\d"}]
    path = log(tmp_path, *({"prompt": text} for text in ("1 + 2", "only 7", "words")))
    found = read(path, ClassesConfig.model_validate({"rules": rules}))
    assert Counter(prompt.prompt_class for prompt in found.prompts) == {"sum": 1, "number": 1, "": 1}


def test_a_search_without_an_end_makes_the_line_a_broken_one(tmp_path: Path) -> None:
    slow = ClassesConfig.model_validate(
        {"rules": [{"name": "slow", "pattern": r"(a|aa|a?a)+$"}], "timeout_seconds": 0.02}
    )
    found = read(log(tmp_path, *[{"prompt": "b"}] * 10, {"prompt": "a" * 60 + "b"}), slow)
    assert "the pattern of class slow was not done with it within 0.02 s" in found.record.broken_lines[0]


@pytest.mark.parametrize("name", ["x" * 101, "two\nlines"])
def test_a_class_that_is_no_name_makes_the_line_a_broken_one(tmp_path: Path, name: str) -> None:
    lines = [CHAT | {"metadata": {"class": "fine"}}] * 10 + [CHAT | {"metadata": {"class": name}}]
    assert read(log(tmp_path, *lines), ClassesConfig(metadata="class")).record.broken == 1


def test_known_answers_stand_in_the_line_or_its_metadata(tmp_path: Path) -> None:
    lines = [COMPLETION | {"expected": 7}, COMPLETION | {"metadata": {"expected": "seven"}}, COMPLETION]
    found = read(log(tmp_path, *lines), expected="expected")
    assert Counter(prompt.expected for prompt in found.prompts) == {"7": 1, "seven": 1, None: 1}
    assert all("expected" not in prompt.body for prompt in found.prompts)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({}, "either"),
        ({"metadata": "a", "rules": [{"name": "b", "pattern": "c"}]}, "either"),
        ({"rules": [{"name": "b", "pattern": "("}]}, "no regular expression"),
    ],
)
def test_wrong_classes_are_refused(classes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ClassesConfig.model_validate(classes)
