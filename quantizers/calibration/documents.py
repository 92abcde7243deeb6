"""Calibration texts from a local file: which there are, and whether they can be enough, without any tokenizer."""

from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import RequestError, UnreadableError
from configs.reading.json_text import read_json_lines
from configs.reading.text import read_text
from quantizers.calibration.config import CalibrationConfig, FileCalibration

Document = str | list[dict[str, str]]
"""A text, or the messages of a conversation."""

_MOST_TOKENS_PER_BYTE = 8
"""A token for each byte is the most that tokenizers make of a text as it stands; some spell characters out first."""
_MOST_TOKENS_BESIDE = 16
"""Of one document: those that begin and end a text."""
_ROW_REMEDY = 'each line is {"text": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]}'


class Documents(NamedTuple):
    """What a file holds."""

    usable: list[Document]
    blank: int
    """Documents without a word."""


def content_of(document: Document) -> str:
    """The document's text; of a conversation, that of all its messages."""
    return document if isinstance(document, str) else "\n".join(message["content"] for message in document)


def read_documents(path: Path) -> Documents:
    """The documents of a .jsonl or .txt file.

    Raises:
        RequestError: It is of neither kind, cannot be read, or a row has neither `text` nor `messages`; with the line.
    """
    if path.suffix not in (".jsonl", ".txt"):
        raise RequestError(
            f"the calibration file {path} is neither .jsonl nor .txt", remedy="convert it to one of the two"
        )
    if path.suffix == ".txt":
        found: list[Document] = [block.strip() for block in read_text(path).split("\n\n") if block.strip()]
    else:
        found = [_document(row, path, line) for line, row in read_json_lines(path)]
    usable = [document for document in found if content_of(document).strip()]
    return Documents(usable, len(found) - len(usable))


def check_documents(config: CalibrationConfig) -> None:
    """Refuse a calibration file whose texts cannot give the tokens asked for, whatever the tokenizer (RequestError)."""
    if not isinstance(config, FileCalibration):
        return
    usable, blank = read_documents(config.path)
    asked = config.samples * config.tokens
    most = sum(_MOST_TOKENS_PER_BYTE * len(content_of(one).encode()) + _MOST_TOKENS_BESIDE for one in usable)
    # How much a chat template writes around a text is not known here.
    if not usable or (most < asked and not config.chat_template):
        longest = max((len(content_of(one)) for one in usable), default=0)
        held = "no usable text" if most < config.tokens else "too little text"
        raise RequestError(
            f"the calibration file {config.path} holds {held}: {len(usable) + blank} documents, {blank} of them blank,"
            f" the longest of {longest} characters, where {config.samples} x {config.tokens} tokens are asked for",
            remedy="add text, name another file, or use `source: self`, which needs none",
        )


def _document(row: Any, path: Path, line: int) -> Document:
    text = row.get("text") if isinstance(row, dict) else None
    if isinstance(text, str):
        return text
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise UnreadableError("neither `text` nor `messages` in this row", file=path, line=line, remedy=_ROW_REMEDY)
    return [{"role": message["role"], "content": message["content"]} for message in messages]
