"""Whose fault an exception is that nobody foresaw: told by whose code raised it."""

import errno
import json
from pathlib import Path

import pytest

from configs.errors import RequestError, StageError
from registry.explain import explanation_of
from registry.hashing import canonical_json


def test_what_is_explained_stays() -> None:
    error = RequestError("no", remedy="yes")
    assert explanation_of(error, "doing", Path("/")) is error
    assert error.blame == "recipe"
    assert StageError("no", remedy="yes").blame is None


def test_the_machine_s_refusal_comes_first() -> None:
    told = explanation_of(OSError(errno.ENOSPC, "No space left on device"), "saving", Path("/nowhere"))
    assert told.blame == "machine"


def test_an_error_in_our_code_is_ours() -> None:
    with pytest.raises(ValueError, match="JSON") as caught:
        canonical_json(float("nan"))
    told = explanation_of(caught.value, "hash", Path("/"))
    assert told.blame == "quantbench"
    assert "registry/hashing.py:" in told.what
    assert "report it" in told.remedy


def test_an_error_in_an_engine_is_the_engine_s() -> None:
    from safetensors.numpy import load

    with pytest.raises(Exception, match="header") as caught:
        load(b"\x00" * 4)
    told = explanation_of(caught.value, "load", Path("/"))
    assert told.blame == "engine"
    assert told.remedy.startswith("safetensors raised this, and would again")


def test_a_plain_library_s_error_is_its_caller_s() -> None:
    from registry.store import Store

    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    assert Store is not None
    assert explanation_of(caught.value, "read", Path("/")).blame == "quantbench"  # this test is our code
