"""A running fake server as a context manager."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

from registry.contracts.serving import Endpoint
from serving_checks.processes.supervisor import Supervised
from serving_checks.readings.gauges import GaugeNames
from serving_checks.server import free_port
from serving_checks.transport.http_json import get_text

GAUGES = GaugeNames("vllm:num_requests_running", "vllm:num_requests_waiting")
"""As the fake server calls them."""


@contextmanager
def fake_server(work_dir: Path, *arguments: str, max_model_len: int = 4096) -> Iterator[Endpoint]:
    """Serve with `arguments` on a free port until the end of the block."""
    port = free_port(None)
    argv = [sys.executable, "-P", "-m", "serving_checks.fake.fake_server", "--port", str(port), *arguments]
    base_url = f"http://127.0.0.1:{port}"
    with Supervised(argv, log_file=work_dir / "fake_server.log") as child:
        _await_answer(base_url, child)
        yield Endpoint(
            base_url=base_url, served_model_name="model", model_path=str(work_dir), max_model_len=max_model_len
        )


def _await_answer(base_url: str, child: Supervised) -> None:
    for _ in range(600):
        try:
            get_text(f"{base_url}/v1/models", timeout_seconds=2.0)
            return
        except HTTPError:
            return  # such as for want of a key
        except OSError:
            assert child.wait(0.05) is None, child.log_tail()
            time.sleep(0.05)
    raise AssertionError(f"no answer: {child.log_tail()}")
