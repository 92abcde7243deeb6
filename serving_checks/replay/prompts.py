"""Prompts of a log: read line by line, checked, put into a random order, and each known by an id of its own."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import RequestError
from configs.reading.json_text import parse_json
from configs.reading.text import MalformedError, lines_of
from registry.contracts.replay import LogFormat, PromptsRecord
from registry.hashing import canonical_json, digest_of, digest_of_file
from serving_checks.replay.classes import ClassesConfig, class_of
from serving_checks.replay.config import PromptsConfig
from serving_checks.replay.log_formats import NoRequest, format_of, requests_of

_LOG_BYTES = 4 << 30
_LOOKED_AT = 20
"""Lines by which a format is known."""
_TOLD = 10
"""Broken lines that are told one by one."""
_OURS = ("model", "stream", "stream_options", "n", "best_of", "metadata", "store", "logprobs", "top_logprobs")
"""Fields that are set here, or that say nothing to the model."""


class Prompt(NamedTuple):
    """One request that is replayed."""

    id: str
    number: int
    """Place in the order, from 0."""
    chat: bool
    """Of the chat API; else of the completions API."""
    body: dict[str, Any]
    """Without the model's name and what else is set by whoever asks."""
    text: str
    """All its texts, a line or more each."""
    hash: str
    prompt_class: str
    expected: str | None
    """The known answer."""


class ReadPrompts(NamedTuple):
    record: PromptsRecord
    prompts: list[Prompt]
    """In the order in which they are asked."""


class _Found(NamedTuple):
    line: int
    place: int
    """In the line, from 0."""
    chat: bool
    body: dict[str, Any]
    text: str
    prompt_class: str
    expected: str | None


def read_prompts(config: PromptsConfig, classes: ClassesConfig | None, expected_field: str | None) -> ReadPrompts:
    """Read a log and draw the prompts that are replayed.

    Args:
        classes: Where a prompt's class comes from; none has one for None.
        expected_field: What the known answer is called in a line or its metadata.

    Raises:
        RequestError: The file cannot be read, is not UTF-8, is of no format or of several, holds no prompt, or too many
            lines that hold none.
    """
    log_format = _format(config)
    found: list[_Found] = []
    broken: list[str] = []
    lines = 0
    for number, text in lines_of(config.file, _LOG_BYTES):
        if not text.strip():
            continue
        lines += 1
        try:
            found += _prompts_of(number, text, log_format, classes, expected_field)
        except NoRequest as error:
            broken.append(f"line {number}: {error}")
    _check_share(config, lines, broken, len(found))
    digest = digest_of_file(config.file)
    order = random.Random(config.seed)  # noqa: S311 - a reproducible order, nothing secret
    drawn = order.sample(found, len(found))[: config.limit]
    record = PromptsRecord(
        file=str(config.file),
        format=log_format,
        digest=digest,
        lines=lines,
        broken=len(broken),
        broken_lines=broken[:_TOLD],
        prompts=len(drawn),
    )
    return ReadPrompts(record, [_numbered(one, number, digest) for number, one in enumerate(drawn)])


def _format(config: PromptsConfig) -> LogFormat:
    """What the config names; else what the first lines that are JSON objects are."""
    if config.format != "auto":
        return config.format
    found = format_of(list(_first_objects(config.file)))
    if len(found) > 1:
        raise RequestError(
            f"{config.file}: its first lines are of several formats: {', '.join(sorted(found))}",
            remedy="name one as `prompts.format`, and take the lines of others out",
        )
    # Where there is none, reading it says what is wrong with each line.
    return found.pop() if found else "openai"


def _first_objects(file: Path) -> Iterator[dict[str, Any]]:
    for number, text in lines_of(file, _LOG_BYTES):
        if number > _LOOKED_AT:
            return
        try:
            value = parse_json(text) if text.strip() else None
        except MalformedError:
            continue
        if isinstance(value, dict):
            yield value


def _check_share(config: PromptsConfig, lines: int, broken: list[str], found: int) -> None:
    if found and len(broken) <= config.most_broken * lines:
        return
    told = "".join(f"\n  - {line}" for line in broken[:_TOLD])
    if not lines:
        raise RequestError(f"{config.file} is empty", remedy="name a log with one request a line")
    raise RequestError(
        f"{config.file}: {len(broken)} of {lines} lines hold no prompt that can be asked:{told}",
        remedy="mend or remove them, or name the right `prompts.format`"
        + ("; `prompts.most_broken` allows a larger share" if found else ""),
    )


def _prompts_of(
    number: int, text: str, log_format: LogFormat, classes: ClassesConfig | None, expected_field: str | None
) -> Iterator[_Found]:
    """Raises NoRequest."""
    try:
        line = parse_json(text)
    except MalformedError as error:
        # The reader's words may quote the line.
        raise NoRequest(error.fact if error.fact.startswith("not JSON") else "no strict JSON") from None
    for place, (body, metadata) in enumerate(requests_of(line, log_format)):
        told = text_of_body(body)
        expected = _expected(line, metadata, expected_field) if expected_field else None
        kept = {name: value for name, value in body.items() if name not in (*_OURS, expected_field)}
        yield _Found(number, place, "messages" in body, kept, told, class_of(body, told, metadata, classes), expected)


def _expected(line: dict[str, Any], metadata: Mapping[str, str], name: str) -> str | None:
    """The known answer; a task's document, which is an object, as JSON."""
    document = line.get(name)
    return canonical_json(document) if isinstance(document, dict) else metadata.get(name)


def _texts_of_chat(messages: Any) -> list[str]:
    """The texts of a conversation. Raises NoRequest for images, audio and what is no conversation."""
    if not isinstance(messages, list) or not messages:
        raise NoRequest("its `messages` are no list, or an empty one")
    texts: list[str] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise NoRequest("one of its messages has no role")
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            texts += [_text_of_part(part) for part in content]
        elif content is not None:
            raise NoRequest("the content of one of its messages is neither a text nor a list of parts")
    if not any(text.strip() for text in texts):
        raise NoRequest("its messages hold no text")
    return texts


def _text_of_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        known = kind if kind in ("image_url", "input_audio", "video_url", "file") else "something else than text"
        raise NoRequest(f"one of its messages holds {known}: only texts are replayed")
    return str(part["text"])


def _text_of_completion(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise NoRequest("it has neither `messages` nor a `prompt` of one text")
    if not prompt.strip():
        raise NoRequest("its prompt holds no text")
    return prompt


def _numbered(found: _Found, number: int, file_digest: str) -> Prompt:
    body_hash = digest_of(found.body)
    return Prompt(
        id=digest_of([file_digest, found.line, found.place, body_hash]),
        number=number,
        chat=found.chat,
        body=found.body,
        text=found.text,
        hash=body_hash,
        prompt_class=found.prompt_class,
        expected=found.expected,
    )


def prompt_of_body(name: str, fields: dict[str, Any]) -> Prompt:
    """A request that is not of a log.

    Args:
        name: What it is known by.
        fields: Its body.

    Raises:
        NoRequest: It holds no text.
    """
    body = {key: value for key, value in fields.items() if key not in _OURS}
    return Prompt(name, 0, "messages" in fields, body, text_of_body(fields), digest_of(body), "", None)


def text_of_body(fields: Mapping[str, Any]) -> str:
    """All texts of a request, a line or more each. Raises NoRequest where it holds none."""
    if "messages" in fields:
        return "\n".join(_texts_of_chat(fields["messages"]))
    return _text_of_completion(fields.get("prompt"))


def prompt_json(prompt: Prompt) -> str:
    """The body as it is kept where the config allows it."""
    return canonical_json(prompt.body)
