"""The table of operators from traces made by hand, and what a server that does not profile comes to."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from configs.errors import StageError
from registry.contracts import Endpoint
from serving_checks.readings.profiling import BETWEEN, REQUESTS, TRACE_FILE, profile, top_operators

Event = dict[str, Any]


def event(name: str, ts: float, dur: float, cat: str = "cpu_op", tid: int = 1) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "pid": 7, "tid": tid, "ts": ts, "dur": dur}


STEP = [
    event("execute_context_1(5)_generation_0(0)", 1000, 1000, "user_annotation"),
    event("aten::linear", 1100, 500),
    event("aten::mm", 1200, 300),
    event("aten::mm", 1700, 100),
    event("aten::copy_", 1150, 40),
]


def test_own_time_leaves_out_what_was_called() -> None:
    assert top_operators(STEP) == [
        (BETWEEN, pytest.approx(400e-6), pytest.approx(0.4)),
        ("aten::mm", pytest.approx(400e-6), pytest.approx(0.4)),
        ("aten::linear", pytest.approx(160e-6), pytest.approx(0.16)),
        ("aten::copy_", pytest.approx(40e-6), pytest.approx(0.04)),
    ]


def test_threads_do_not_nest_in_each_other() -> None:
    both = [event("aten::mm", 0, 100), event("aten::mul", 10, 50, tid=2)]
    assert [(name, own) for name, own, _ in top_operators(both)] == [
        ("aten::mm", pytest.approx(100e-6)),
        ("aten::mul", pytest.approx(50e-6)),
    ]


def test_a_call_that_begins_with_its_caller_is_its_part_and_one_that_begins_at_its_end_is_not() -> None:
    events = [event("inner", 0, 30), event("outer", 0, 100), event("next", 100, 10)]
    assert {name: round(own * 1e6) for name, own, _ in top_operators(events)} == {"inner": 30, "outer": 70, "next": 10}


def test_where_a_gpu_worked_the_table_is_the_gpu_s() -> None:
    kernels = [event("gemm", 1300, 60, "kernel", tid=20), event("Memcpy HtoD", 1400, 20, "gpu_memcpy", tid=21)]
    assert top_operators([*STEP, *kernels]) == [
        ("gemm", pytest.approx(60e-6), pytest.approx(0.75)),
        ("Memcpy HtoD", pytest.approx(20e-6), pytest.approx(0.25)),
    ]


def test_other_events_are_left_out_and_shares_are_of_all_operators() -> None:
    others = [{"ph": "M", "name": "process_name"}, event("ac2g", 0, 9, "python_function"), {"ph": "i", "ts": 3}]
    table = top_operators([*STEP, *others], most=1)
    assert table == [(BETWEEN, pytest.approx(400e-6), pytest.approx(0.4))]
    assert top_operators(others) == []


class Profiling(BaseHTTPRequestHandler):
    """Counts what it is asked, and writes a trace when it is told to stop."""

    asked: list[str] = []
    on_stop: Callable[[], None] = staticmethod(lambda: None)
    refuses: str = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Profiling.asked.append(self.path)
        if self.path == "/stop_profile":
            Profiling.on_stop()
        self.send_response(404 if self.path == Profiling.refuses else 200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def server(on_stop: Callable[[], None] = lambda: None, refuses: str = "") -> Iterator[Endpoint]:
    Profiling.asked, Profiling.on_stop, Profiling.refuses = [], staticmethod(on_stop), refuses  # type: ignore[assignment]
    with ThreadingHTTPServer(("127.0.0.1", 0), Profiling) as http:
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}"
        yield Endpoint(base_url=url, served_model_name="model", model_path="/nowhere", max_model_len=64)
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("packed", [True, False])
def test_the_trace_is_kept_packed(tmp_path: Path, packed: bool) -> None:
    text = json.dumps({"traceEvents": STEP}).encode()
    (tmp_path / "traces").mkdir()
    (tmp_path / "object").mkdir()

    def write() -> None:
        name = "rank1.5.pt.trace.json", "rank0.5.pt.trace.json" + (".gz" if packed else "")
        (tmp_path / "traces" / name[0]).write_text("another rank's")
        (tmp_path / "traces" / name[1]).write_bytes(gzip.compress(text) if packed else text)

    with server(write) as endpoint:
        record = profile(endpoint, tmp_path / "traces", tmp_path / "object")
    assert Profiling.asked == ["/start_profile", *["/v1/completions"] * REQUESTS, "/stop_profile"]
    assert record.operators[0][0] == BETWEEN
    assert gzip.decompress((tmp_path / "object" / record.trace_file).read_bytes()) == text


def test_a_trace_that_was_cut_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "rank0.pt.trace.json.gz").write_bytes(gzip.compress(b'{"traceEvents": []}')[:-9])
    with server() as endpoint, pytest.raises(StageError, match="no profile of the server: EOFError"):
        profile(endpoint, tmp_path, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"traceEvents": []}', b'{"traceEvents": 3}', b"[]"])
def test_no_trace_or_an_unreadable_one_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "rank0.pt.trace.json").write_bytes(content)
    with server() as endpoint, pytest.raises(StageError, match="no profile of the server"):
        profile(endpoint, tmp_path, tmp_path)
    assert not (tmp_path / TRACE_FILE).exists()


def test_a_server_that_does_not_profile_is_told(tmp_path: Path) -> None:
    with server(refuses="/start_profile") as endpoint, pytest.raises(StageError, match="HTTPError: HTTP Error 404"):
        profile(endpoint, tmp_path, tmp_path)
    assert Profiling.asked == ["/start_profile"]


def test_profiling_is_ended_when_a_request_fails(tmp_path: Path) -> None:
    with server(refuses="/v1/completions") as endpoint, pytest.raises(StageError, match="404"):
        profile(endpoint, tmp_path, tmp_path)
    assert Profiling.asked[-1] == "/stop_profile"
