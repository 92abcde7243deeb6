"""The calibrate stage: seeded token rows that no evaluation item is part of, [samples, tokens] in `rows.json`."""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import RequestError, StageError
from quantizers.calibration.config import (
    CalibrateJob,
    CalibrationConfig,
    FileCalibration,
    HubCalibration,
    SelfCalibration,
    check_calibration,
)
from quantizers.calibration.documents import Document, content_of, read_documents
from quantizers.calibration.exclusion import Exclusion
from quantizers.calibration.token_range import refuse_beyond_embedding
from registry.contracts import CalibrationRecord
from registry.files import write_text_atomically
from registry.hashing import canonical_json, digest_of, digest_of_file, manifest_of
from registry.os_faults import check_not_refused
from registry.texts import opening_of, text_ids

if TYPE_CHECKING:
    from registry.stage_process import StageClock

ROWS_FILE = "rows.json"

_SHUFFLE_BUFFER = 10_000


def calibrate(job: CalibrateJob, clock: StageClock) -> tuple[CalibrationRecord, dict[str, str]]:
    """Write `rows.json` into `job.output_dir`.

    Returns:
        The record, and distribution name -> version of the libraries that shaped the rows.

    Raises:
        RequestError: The source gives fewer tokens than asked, or is not readable as what it says it is.
        StageError: A hub data set cannot be fetched.
    """
    config = job.config
    check_calibration(config, job.checkpoint)
    forbidden = Exclusion(job.excluded_texts)
    with clock.part("import"):
        from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint_dir)
    libraries = ["transformers"]
    if isinstance(config, SelfCalibration):
        from quantizers.calibration.self_sampling import sample_rows

        rows, rejected = sample_rows(job, tokenizer, forbidden, clock)
        libraries.append("torch")
    else:
        with clock.part("tokenize"):
            rows, rejected = pack_rows(_documents(config), tokenizer, config, forbidden)
    if len(rows) < config.samples:
        raise RequestError(
            f"calibration source {config.source!r} gives {len(rows) * config.tokens} tokens in whole rows of"
            f" {config.tokens}, {config.samples * config.tokens} are asked for ({rejected} texts rejected because they"
            " hold evaluation items)",
            remedy="add text" + (f", set samples to {len(rows)}" if rows else "") + " or set tokens to less",
        )
    refuse_beyond_embedding(rows, tokenizer, job.checkpoint.embedding_rows)
    write_text_atomically(job.output_dir / ROWS_FILE, canonical_json(rows))
    record = CalibrationRecord(
        digest=manifest_of(job.output_dir).digest,
        token_digest=digest_of(rows),
        source=_describe(config),
        rows=len(rows),
        tokens=sum(map(len, rows)),
        seed=config.seed,
        chat_template=config.chat_template,
        rejected_rows=rejected,
    )
    return record, {name: importlib.metadata.version(name) for name in libraries}


def pack_rows(
    documents: Iterable[Document], tokenizer: Any, config: CalibrationConfig, forbidden: Exclusion
) -> tuple[list[list[int]], int]:
    """Tokenize documents in the order they come, end to end, and cut rows of `config.tokens`.

    Packing wastes no short document and truncates no long one (a row may begin inside a document). Every document and
    every row begins as the model expects a text to begin: without BOS a model that knows it computes rubbish.

    Returns:
        At most `config.samples` rows, and the number of documents that were left out.
    """
    rows: list[list[int]] = []
    pending: list[int] = []
    rejected = 0
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    opening = opening_of(tokenizer)
    for document in documents:
        text = content_of(document)
        if forbidden.found_in(text):
            rejected += 1
            continue
        pending += _token_ids(document, tokenizer, config.chat_template) + end
        while len(pending) >= config.tokens:
            if pending[: len(opening)] != opening:
                pending = opening + pending
            rows.append(pending[: config.tokens])
            pending = pending[config.tokens :]
            if len(rows) == config.samples:
                return rows, rejected
    return rows, rejected


def _documents(config: FileCalibration | HubCalibration) -> Iterator[Document]:
    if isinstance(config, FileCalibration):
        documents = read_documents(config.path).usable
        random.Random(config.seed).shuffle(documents)  # noqa: S311
        yield from documents
        return
    import datasets

    try:
        stream = datasets.load_dataset(
            config.id, config.config, split=config.split, revision=config.revision, streaming=True
        )
        for row in stream.shuffle(seed=config.seed, buffer_size=_SHUFFLE_BUFFER):
            yield _text_in(row, config)
    except RequestError:
        raise
    except KeyError as error:
        raise RequestError(
            f"the data set {config.id} has no column {config.text_column!r}", remedy="set text_column"
        ) from error
    except Exception as error:  # The hub's client raises dozens of types; all of them mean the same to a user.
        check_not_refused(error, f"reading the data set {config.id}", Path.home())
        raise StageError(
            f"the data set {config.id} cannot be read: {type(error).__name__}: {error}",
            remedy="check id, config, split, revision and network, or use `source: file`",
        ) from error


def _text_in(row: dict[str, Any], config: HubCalibration) -> str:
    text = row[config.text_column]
    if not isinstance(text, str):
        raise RequestError(
            f"the column {config.text_column!r} of the data set {config.id} holds {type(text).__name__}, no text",
            remedy="set text_column to one with texts",
        )
    return text


def _token_ids(document: Document, tokenizer: Any, chat_template: bool) -> list[int]:
    if chat_template:
        messages = [{"role": "user", "content": document}] if isinstance(document, str) else document
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # A template is a program: what it stumbles over is of any type.
            roles = ", ".join(message["role"] for message in messages)
            raise RequestError(
                f"the model's chat template refuses a calibration text of {roles}, {content_of(document)[:60]!r}:"
                f" {type(error).__name__}: {error}",
                remedy="take the text out, mend the template, or set calibration.chat_template to false",
            ) from error
    else:
        text = document if isinstance(document, str) else "\n\n".join(message["content"] for message in document)
    return text_ids(tokenizer, [text])[0]


def _describe(config: CalibrationConfig) -> str:
    match config:
        case SelfCalibration():
            return "self"
        case FileCalibration():
            return f"file {config.path.name} ({digest_of_file(config.path)})"
        case HubCalibration():
            return f"hub {config.id}@{config.revision} {config.config or ''}[{config.split}]"
