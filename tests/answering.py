"""Waiting for a server that a test has started."""

import time
import urllib.request

from serving_checks.processes.supervisor import Supervised


def until_it_answers(server: Supervised, url: str, seconds: float) -> None:
    """Return once `url` answers; an AssertionError with the server's last words where it ended or takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return
        except OSError:
            ended = server.poll() is not None or time.monotonic() > deadline
            assert not ended, server.log_tail(40)
            time.sleep(0.2)
