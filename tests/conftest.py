"""For all tests."""

import os
import signal
from collections.abc import Iterator

import pytest

# A shell starts background jobs with SIGINT ignored, and what is executed inherits that: processes that tests interrupt
# would never end. A handler of Python's own is reset to the system's default in what pytest starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def temporary_folder_is_given_back() -> Iterator[None]:
    """A test that leaves another TMPDIR behind breaks later ones of its process, which say nothing of it."""
    before = os.environ.get("TMPDIR")
    yield
    assert os.environ.get("TMPDIR") == before
