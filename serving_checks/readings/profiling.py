"""A PyTorch profiler trace of a few engine steps, and the table of what took their time.

The engine is told to profile over HTTP (vLLM: /start_profile and /stop_profile, vllm/entrypoints/serve/profile) and
writes its trace, in the Chrome trace event format, into the folder that the server was started with
(`ServerRequest.trace_dir`). Profiling slows a server by several times, so it comes after everything that is measured.
"""

import gzip
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from configs.errors import StageError
from configs.reading.json_text import parse_json
from registry.contracts.serving import Endpoint, ProfileRecord
from serving_checks.transport.http_json import post, post_json

TRACE_FILE = "profile.trace.json.gz"
PROMPT = "The capital of France is"
REQUESTS = 4
OUTPUT_TOKENS = 8
MOST_OPERATORS = 20

BETWEEN = "(between operators)"
"""Time of an engine step in which no operator ran: mostly Python."""

_STEP, _OPERATOR = "user_annotation", "cpu_op"
_ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
# Writing the trace of a step with tens of thousands of operators takes the engine a while.
_STOP_SECONDS = 300.0


def profile(endpoint: Endpoint, trace_dir: Path, output_dir: Path) -> ProfileRecord:
    """Profile the prefill and the decode steps of a few short requests that run together.

    Args:
        trace_dir: What the server was started with (`ServerRequest.trace_dir`).
        output_dir: Gets `TRACE_FILE`, the trace of the first rank.

    Raises:
        StageError: The server does not profile, did not answer, or wrote no trace that can be read.
    """
    body = {
        "model": endpoint.served_model_name,
        "prompt": PROMPT,
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0.0,
        "ignore_eos": True,
    }
    try:
        post(f"{endpoint.base_url}/start_profile")
        try:
            with ThreadPoolExecutor(max_workers=REQUESTS) as pool:
                list(pool.map(lambda _: post_json(f"{endpoint.base_url}/v1/completions", body), range(REQUESTS)))
        finally:
            post(f"{endpoint.base_url}/stop_profile", timeout_seconds=_STOP_SECONDS)
        text = _first_rank(trace_dir)
        operators = top_operators(parse_json(text, of_model=True)["traceEvents"])
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError) as error:
        raise StageError(
            f"no profile of the server: {type(error).__name__}: {error}",
            remedy="read the server's log for what its profiler said",
        ) from error
    if not operators:
        raise StageError(
            "no profile of the server: its trace holds no operator",
            remedy="the engine did not work while it was profiled; read the server's log",
        )
    (output_dir / TRACE_FILE).write_bytes(gzip.compress(text))
    return ProfileRecord(trace_file=TRACE_FILE, operators=operators)


def top_operators(events: Iterable[Mapping[str, Any]], most: int = MOST_OPERATORS) -> list[tuple[str, float, float]]:
    """Own time by operator: what it took without the operators that it called.

    Where the trace has work of a GPU, this is the table: what the CPU does meanwhile is mostly waiting for it. Own time
    of the annotated engine steps is called `BETWEEN`.

    Args:
        events: Complete events ("ph": "X") of a Chrome trace, times in microseconds; others are left out.
            https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
        most: Rows of the table.

    Returns:
        (name, own seconds, share of all own time), the dearest first.
    """
    complete = [event for event in events if event.get("ph") == "X" and event.get("dur") is not None]
    device = [event for event in complete if event.get("cat") in _ON_DEVICE]
    threads: dict[tuple[Any, Any], list[Mapping[str, Any]]] = defaultdict(list)
    for event in device or [event for event in complete if event.get("cat") in (_STEP, _OPERATOR)]:
        threads[event.get("pid"), event.get("tid")].append(event)
    own_microseconds: dict[str, float] = defaultdict(float)
    for thread in threads.values():
        _add_own_time(thread, own_microseconds)
    total = sum(own_microseconds.values())
    ranked = sorted(own_microseconds.items(), key=lambda item: (-item[1], item[0]))
    return [(name, own / 1e6, own / total) for name, own in ranked[:most] if own > 0]


def _add_own_time(thread: list[Mapping[str, Any]], own_microseconds: dict[str, float]) -> None:
    """Events of one thread nest: each one's duration is its own less that of the events directly within it."""
    open_events: list[tuple[float, str]] = []
    for event in sorted(thread, key=lambda one: (float(one["ts"]), -float(one["dur"]))):
        start, duration = float(event["ts"]), float(event["dur"])
        name = BETWEEN if event["cat"] == _STEP else str(event["name"])
        while open_events and open_events[-1][0] <= start:
            open_events.pop()
        own_microseconds[name] += duration
        if open_events:
            own_microseconds[open_events[-1][1]] -= duration
        open_events.append((start + duration, name))


def _first_rank(trace_dir: Path) -> bytes:
    """The trace of the lowest rank as JSON text; the others do the same on other parts of the weights."""
    traces = sorted(trace_dir.rglob("*.pt.trace.json*"))
    if not traces:
        raise FileNotFoundError(f"no trace in {trace_dir}")
    content = traces[0].read_bytes()
    return gzip.decompress(content) if traces[0].suffix == ".gz" else content
