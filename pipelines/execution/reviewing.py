"""`quantbench review`: the page as a file, or served; and decisions that are made on it."""

import asyncio
import getpass
import hashlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args
from urllib.parse import quote

from aiohttp import web

from configs.errors import RequestError
from configs.reading.text import read_text
from pipelines.execution.finished_runs import run_named
from pipelines.execution.gateway import until_told
from pipelines.execution.promotion import ModelRegistry
from pipelines.execution.workspace import Workspace
from pipelines.recipe.registry_config import Role
from pipelines.records.run_record import result_files
from pipelines.review.collect import ASKED_EVERY_SECONDS, Collector
from pipelines.review.page import render
from pipelines.review.page_data import Deciding
from pipelines.review.server import Decider, Decision, ReviewServer
from registry.contracts.gateway import ADDRESS_FILE, GATEWAY_FILE, PAIRS_FILE
from registry.contracts.replay import REPLAY_FILE
from registry.files import write_text_atomically
from registry.ledger import Entry
from registry.pairs import PAIRS_DIR
from serving_checks.gateway.config import KeyHash
from serving_checks.readings.cost import DevicePrice
from serving_checks.server import free_port

KEY_VARIABLE = "QUANTBENCH_REVIEW_KEY"
OFFLINE_BYTES = 4_800_000
"""Of data; with style and script a file stays below 5 MB."""
_LIVE_BYTES = 2_000_000
"""A live page asks for what is not in it."""
_LEAST_KEY = 16
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_KEY_FILE_BYTES = 1 << 16
logger = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What a reader wants to see."""

    run: str | None = None
    """Id of the run to open with, or its beginning."""
    series: Sequence[str] = ()
    """Only runs whose series holds one of these; all where there is none."""
    mlflow: bool = True
    """What the tracking stores know too."""
    price: DevicePrice | None = None
    """For runs whose recipe has none."""

    def collector(self, workspace: Workspace, pages_at: str) -> Collector:
        """Of a workspace; `pages_at` is the address of `runs/`, relative to the page."""
        return Collector(
            workspace.root,
            workspace.store,
            workspace.cache,
            pages_at=pages_at,
            series=self.series,
            mlflow=self.mlflow,
            price=self.price,
        )


def write_review(workspace: Workspace, out: Path, asked: Asked, tell: Callable[[int, int], object]) -> int:
    """Write the page as one file that opens offline; its size in bytes.

    Args:
        workspace: Whose runs are shown.
        out: The file.
        asked: Which of them.
        tell: Is told how many of how many runs were read.

    Raises:
        RequestError: No run is called as it is asked for.
    """
    pages_at = quote(os.path.relpath(workspace.root / "runs", out.resolve().parent))
    html = render(asked.collector(workspace, pages_at).collect(most_bytes=OFFLINE_BYTES, shown=asked.run, tell=tell))
    write_text_atomically(out, html)
    return len(html.encode())


async def serve_review(
    workspace: Workspace, port: int, asked: Asked, keys: Sequence[KeyHash], tell: Callable[[str], object]
) -> None:
    """Serve the page on this machine until told to end by SIGINT, SIGTERM or SIGHUP.

    Args:
        workspace: Whose runs are shown.
        port: To listen on.
        asked: Which of them.
        keys: Of those who may decide; nobody may when empty.
        tell: Is told the address, and that it ended.

    Raises:
        RequestError: The port is taken.
    """
    free_port(port)
    collector = asked.collector(workspace, "runs")
    server = ReviewServer(
        workspace.root,
        port,
        lambda: (mark_of(workspace), int(time.monotonic() / ASKED_EVERY_SECONDS)),
        lambda deciding: collector.collect(most_bytes=_LIVE_BYTES, shown=asked.run, deciding=deciding),
        collector.detail,
        lambda data: render(data, live=True),
        Decider(keys, offered, lambda decision: decided(decision, workspace)) if keys else None,
    )
    await until_told(_serving(server, port, tell))
    tell("ended")


async def _serving(server: ReviewServer, port: int, tell: Callable[[str], object]) -> None:
    runner = web.ServerRunner(server.connections, shutdown_timeout=5.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, server.listen.host, port).start()
        tell(f"http://127.0.0.1:{port}/ shows the runs of this workspace; Ctrl-C ends it")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def offered(csrf_token: str) -> Deciding:
    """All that may be decided."""
    return Deciding(
        actions=["approve", "reject", "promote", "rollback"], aliases=list(get_args(Role)), csrf_token=csrf_token
    )


def decided(decision: Decision, workspace: Workspace) -> Entry:
    """Do it by the command line's own checks; the row that was written.

    Raises:
        RequestError: It cannot be done as it is asked for, or the ledger has changed since the page was made.
        NotAllowedError: Policy or approval stands against it.
        StageError: A store does not answer, or bytes are not what they were.
    """
    if decision.run not in (file.run_id for file in result_files(workspace.root)):
        raise RequestError(f"no finished run is called {decision.run}", remedy="load the page again")
    run = run_named(workspace, decision.run)
    who = f"review page: {getpass.getuser()}@{socket.gethostname()}"
    registry = ModelRegistry(run, workspace, who, lambda text: logger.warning("%s", text))
    registry.go_on_from(decision.seen)
    if decision.action == "rollback":
        return registry.rollback(_role(decision), decision.why)
    if decision.name is None:
        raise RequestError(f"{decision.action} needs a model's name", remedy="choose one on the page")
    subject = registry.subject(decision.name)
    if decision.action == "promote":
        return registry.promote(subject, _role(decision), decision.why, None)
    return registry.tell(subject, decision.action, decision.why)


def _role(decision: Decision) -> Role:
    for role in get_args(Role):
        if decision.alias == role:
            return role  # type: ignore[no-any-return]
    raise RequestError(
        f"{decision.action} needs an alias, not {decision.alias or 'none'}",
        remedy=f"name one of {', '.join(get_args(Role))}",
    )


def mark_of(workspace: Workspace) -> object:
    """What changes with all that the page shows and lies in the workspace: times and sizes, no content."""
    pairs = (REPLAY_FILE, GATEWAY_FILE, ADDRESS_FILE, f"{PAIRS_FILE}*", PAIRS_DIR)
    shadow = [path for name in pairs for path in workspace.root.glob(f"shadow/*/{name}")]
    watched = [workspace.ledger_file, *workspace.root.glob("ledger.db-wal"), *shadow]
    return result_files(workspace.root), sorted((str(path), *_stamp(path)) for path in watched)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        known = path.stat()
    except OSError:
        return 0, 0
    return known.st_mtime_ns, known.st_size


def review_keys(key_file: Path | None, variables: Mapping[str, str] = os.environ) -> list[KeyHash]:
    """The hashes of the keys of those who may decide.

    Args:
        key_file: Holds one a line, as the gateway's `api_keys`: of a key that stands in no file.
        variables: May hold a key itself, under `KEY_VARIABLE`.

    Raises:
        RequestError: There is none, one is too short to be a secret, or a line is no hash.
    """
    if key_file is not None:
        lines = [line.strip() for line in read_text(key_file, _MOST_KEY_FILE_BYTES).splitlines() if line.strip()]
        if not lines or not all(_HASH.fullmatch(line) for line in lines):
            raise RequestError(
                f"{key_file} holds no line, or another than `sha256:` and 64 hex digits",
                remedy="printf %s KEY | sha256sum gives the digits",
            )
        return lines
    key = variables.get(KEY_VARIABLE, "")
    if not key:
        raise RequestError(
            f"whoever decides on the page has to give a key, and {KEY_VARIABLE} is not set",
            remedy=f"export {KEY_VARIABLE} with a long random word, or name a file of hashes with --key-file",
        )
    if len(key) < _LEAST_KEY:
        raise RequestError(
            f"the key in {KEY_VARIABLE} has {len(key)} characters: whoever guesses it may promote",
            remedy=f"take {_LEAST_KEY} or more, such as `openssl rand -hex 16` gives",
        )
    return [f"sha256:{hashlib.sha256(key.strip().encode()).hexdigest()}"]
