"""Shadow folders of a workspace: how many pairs are there and what they were judged, without reading the pairs."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import QuantbenchError
from pipelines.review.ledger_rows import LedgerRows
from pipelines.review.one_run import DIGITS_OF_A_DIGEST
from pipelines.review.page_data import Notice, ShadowTraffic
from registry.contracts import GatewayRecord, ReplayRecord, ShadowVerdict
from registry.contracts.gateway import ADDRESS_FILE, GATEWAY_FILE, PAIRS_FILE
from registry.contracts.replay import REPLAY_FILE
from registry.held_file import read_held
from registry.pair_database import read_trial
from registry.pairs import pairs_in_parts
from registry.sealed import DamagedFile, read_sealed


def shadow_traffic(root: Path, ledgers: LedgerRows) -> tuple[list[ShadowTraffic], list[Notice]]:
    """What was replayed and mirrored, the newest first.

    Args:
        root: The workspace's folder.
        ledgers: Hold the verdicts that somebody had recorded.
    """
    found: list[ShadowTraffic] = []
    notices: list[Notice] = []
    for folder in sorted(path for path in root.glob("shadow/*") if path.is_dir()):
        try:
            found += _traffic_of(folder, ledgers)
        except (QuantbenchError, DamagedFile, OSError, sqlite3.Error) as error:
            what = error.what if isinstance(error, QuantbenchError) else str(error)
            text = f"{what}. Its pairs are not shown: `quantbench shadow verdict {folder.name}` says what can be read."
            notices.append(Notice(about=folder.name, text=text))
    return sorted(found, key=lambda one: one.started_at, reverse=True), notices


def _traffic_of(folder: Path, ledgers: LedgerRows) -> Iterator[ShadowTraffic]:
    if (folder / GATEWAY_FILE).is_file():
        yield _of_gateway(folder, read_sealed(folder / GATEWAY_FILE, GatewayRecord))
    elif (folder / REPLAY_FILE).is_file():
        yield _of_replay(folder, read_sealed(folder / REPLAY_FILE, ReplayRecord), ledgers)


def _of_gateway(folder: Path, record: GatewayRecord) -> ShadowTraffic:
    """Its newest trial that is judged."""
    database = folder / PAIRS_FILE
    kept = read_trial(database) if database.is_file() else None
    return ShadowTraffic(
        name=folder.name,
        kind="gateway",
        model=record.model,
        champion=_short(kept.trial.champion) if kept else "",
        candidate=_short(kept.trial.candidate) if kept else "",
        digests=[_short(kept.trial.champion), _short(kept.trial.candidate)] if kept else [],
        pairs=kept.pairs if kept else 0,
        started_at=record.started_at,
        status=read_held(folder / ADDRESS_FILE),
        **_judged(kept.verdict if kept else None),
    )


def _of_replay(folder: Path, record: ReplayRecord, ledgers: LedgerRows) -> ShadowTraffic:
    champion, candidate = record.champion.digest, record.candidate.digest
    recorded = ledgers.recorded_verdict(champion, candidate) if champion and candidate else None
    return ShadowTraffic(
        name=folder.name,
        kind="replay",
        model=record.name,
        champion=record.champion.name,
        candidate=record.candidate.name,
        digests=[_short(one) for one in (champion, candidate) if one],
        pairs=record.pairs if record.finished_at else pairs_in_parts(folder),
        started_at=record.started_at,
        **_judged(recorded.verdict if recorded else None),
    )


def _judged(verdict: ShadowVerdict | None) -> dict[str, Any]:
    if verdict is None:
        return {"outcome": None, "reason": None, "exploratory": None}
    return {"outcome": verdict.outcome, "reason": verdict.reason, "exploratory": not verdict.frozen}


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:DIGITS_OF_A_DIGEST]
