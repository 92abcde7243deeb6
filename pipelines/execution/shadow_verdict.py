"""The verdict over a folder of recorded pairs, once or while it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from configs.errors import RequestError, StageError
from configs.reading.json_text import read_json_object
from evals.judging.pair_observations import observations_of
from evals.judging.shadow_verdict import judge_pairs
from evals.judging.trial_judge import without_deleted
from evals.judging.verdict_config import VerdictConfig, verdict_digest
from pipelines.execution.shadow_evidence import Tried
from registry.contracts import ShadowVerdict
from registry.contracts.gateway import GATEWAY_FILE, PAIRS_FILE
from registry.contracts.replay import REPLAY_FILE
from registry.hashing import digest_of
from registry.pair_database import KeptTrial, read_pairs_of, read_trial
from registry.pairs import read_pair_table

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

SECONDS_BETWEEN_LOOKS = 5.0


class _Recording(NamedTuple):
    """What a replay's folder says of its pairs."""

    frozen: VerdictConfig | None
    """How they are to be judged, as it was stored before the first one."""
    growing: bool
    """Some are still to come."""
    live: bool
    """Of a gateway's traffic, which has no end."""


def verdicts_of(folder: Path, config: VerdictConfig | None, *, watch: bool = False) -> Iterator[ShadowVerdict]:
    """One verdict or, with `watch`, one a look, until it is decided or no more pairs come.

    Args:
        folder: A replay's, with its pairs; or a gateway's, of which the newest trial is judged.
        config: Judge by this one; the stored one, or else the default, where it is None.
        watch: Look again every few seconds while pairs are recorded.

    Raises:
        RequestError: The folder is no replay's.
        StageError: A file in it is damaged, or of another version.
    """
    looks: list[int] = []
    while True:
        # In this order: of a recording that has ended, all pairs are there.
        recording = _recording(folder)
        trial = read_trial(folder / PAIRS_FILE) if recording.live else None
        if trial is not None and trial.verdict is not None and config is None:
            # Decided once: pairs that came or went since change nothing of it.
            yield trial.verdict
            return
        verdict = judge_pairs(
            observations_of(_pairs(folder, recording, trial)),
            config or recording.frozen or VerdictConfig(),
            frozen_digest=verdict_digest(recording.frozen) if recording.frozen else None,
            growing=recording.growing,
            looks=looks,
        )
        verdict = without_deleted(verdict, trial.deleted) if trial else verdict
        yield verdict
        if not watch or not recording.growing or verdict.outcome != "continue":
            return
        looks = verdict.looks
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _pairs(folder: Path, recording: _Recording, trial: KeptTrial | None) -> pyarrow.Table:
    if not recording.live:
        return read_pair_table(folder)
    return read_pairs_of(folder / PAIRS_FILE, trial.trial.name if trial else "", most=-1 if trial else 0)


def tried_in(folder: Path) -> Tried:
    """Which artifacts a folder's pairs compare: those of the newest trial, where it is a gateway's.

    Raises:
        RequestError: It is not known.
        StageError: A file is damaged.
    """
    if (folder / GATEWAY_FILE).is_file():
        kept = read_trial(folder / PAIRS_FILE)
        sides = (kept.trial.champion, kept.trial.candidate) if kept else (None, None)
    else:
        told = read_json_object(folder / REPLAY_FILE)
        sides = ((told.get("champion") or {}).get("digest"), (told.get("candidate") or {}).get("digest"))
    champion, candidate = sides
    if not champion or not candidate:
        raise RequestError(
            f"{folder} does not say which artifacts were compared, so its verdict is recorded for none",
            remedy="replay artifacts of a run by their names, and not servers that run already",
        )
    return Tried(champion, candidate)


def record_of_pairs(folder: Path, or_else: str = "") -> Path:
    """What a folder's pairs were begun with: a gateway's record, or a replay's.

    Args:
        or_else: What may be named in its place, for the remedy.

    Raises:
        RequestError: It is no folder of pairs.
    """
    for name in (GATEWAY_FILE, REPLAY_FILE):
        if (folder / name).is_file():
            return folder / name
    raise RequestError(
        f"{folder} holds no {REPLAY_FILE} and no {GATEWAY_FILE}, so it is no folder of pairs",
        remedy=f"name the folder that `quantbench shadow replay` or `quantbench shadow up` wrote{or_else}",
    )


def _recording(folder: Path) -> _Recording:
    path = record_of_pairs(folder)
    live = path.name == GATEWAY_FILE
    told = read_json_object(path)
    growing = told.get("finished_at") is None
    stored, digest = told.get("verdict"), told.get("verdict_digest")
    if stored is None and digest is None:
        return _Recording(None, growing, live)
    if digest_of(stored) != digest:
        raise StageError(
            f"{path}: its `verdict` is not the one that was stored before the first pair: the digest differs",
            remedy="take the file back from a copy; what was stored is lost otherwise, and a replay has to begin anew",
        )
    try:
        return _Recording(VerdictConfig.model_validate(stored), growing, live)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in ("verdict", *first["loc"]))
        raise StageError(
            f"{path}: `{place}` cannot be judged by in this version: {first['msg']}",
            remedy="judge with the version that recorded the pairs",
        ) from None
