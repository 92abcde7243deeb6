"""What the server says about itself during a load test."""

import time
from collections.abc import Iterator

import pytest

from registry.contracts import Endpoint
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.load import watch
from serving_checks.load.watch import Readings, ServerWatch, await_idle, read

NAMES = VllmEngine(VllmServerConfig()).metrics
HERE = Endpoint(base_url="http://here", served_model_name="model", model_path="/nowhere", max_model_len=128)


def page(prompt: int, output: int, running: int, waiting: int) -> str:
    return (
        f'vllm:prompt_tokens_total{{engine="0"}} {prompt}.0\nvllm:generation_tokens_total {output}.0\n'
        f"vllm:num_requests_running {running}.0\nvllm:num_requests_waiting {waiting}.0\n"
    )


def answer_with(monkeypatch: pytest.MonkeyPatch, pages: Iterator[str]) -> list[str]:
    """The server's pages one after the other, the last one for ever; the addresses that were asked."""
    asked: list[str] = []
    kept = [""]

    def get_text(url: str, api_key_variable: str | None = None) -> str:
        asked.append(url)
        kept[0] = next(pages, kept[0])
        return kept[0]

    monkeypatch.setattr(watch, "get_text", get_text)
    monkeypatch.setattr(watch, "_SAMPLE_SECONDS", 0.01)
    monkeypatch.setattr(watch, "_SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.0)
    return asked


def test_only_what_is_needed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, iter([page(1, 2, 3, 4)]))
    assert read(HERE, NAMES.model_copy(update={"requests_waiting": None})) == Readings(1.0, 2.0, 3.0, None)
    assert asked[0].startswith("http://here/metrics?name%5B%5D=vllm%3Aprompt_tokens_total&")
    assert "waiting" not in asked[0]


def test_where_the_question_is_not_understood_everything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, iter(["", page(1, 2, 3, 4)]))
    assert read(HERE, NAMES) == Readings(1.0, 2.0, 3.0, 4.0)
    assert asked[1] == "http://here/metrics"


def test_counters_are_differences_and_gauges_are_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, iter([page(100, 200, 0, 0), page(105, 200, 2, 7), page(110, 203, 4, 1)]))
    with ServerWatch(HERE, NAMES) as watched:
        while len(asked) < 4:
            time.sleep(0.005)
    counts = watched.counts(prompt_tokens=10, output_tokens=3)
    assert counts == (10, 3, 4, 7)


def test_a_counter_that_lags_is_waited_for_and_one_that_stays_behind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_SAMPLE_SECONDS", 60.0)
    answer_with(monkeypatch, iter([page(0, 0, 0, 0), page(10, 1, 0, 0), page(10, 2, 0, 0), page(10, 3, 0, 0)]))
    monkeypatch.setattr(watch, "_SAMPLE_SECONDS", 60.0)
    monkeypatch.setattr(watch, "_SETTLE_SECONDS", 60.0)
    with ServerWatch(HERE, NAMES) as watched:
        pass
    assert watched.counts(10, 3).output_tokens == 3
    monkeypatch.setattr(watch, "_SETTLE_SECONDS", 0.01)
    assert watched.counts(10, 99).output_tokens == 3


def test_a_server_without_a_page_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, api_key_variable: str | None = None) -> str:
        raise ConnectionRefusedError

    monkeypatch.setattr(watch, "get_text", refuse)
    with ServerWatch(HERE, NAMES) as watched:
        pass
    assert watched.counts(10, 3) == (None, None, None, None)


def test_idle_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, iter([page(0, 0, 1, 0), page(0, 0, 0, 1), page(0, 0, 0, 0)]))
    await_idle(HERE, NAMES, deadline_seconds=60.0)
    assert len(asked) == 3
    answer_with(monkeypatch, iter([page(0, 0, 1, 0)]))
    await_idle(HERE, NAMES, deadline_seconds=0.01)


def test_a_server_that_takes_long_to_answer_is_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, iter([page(0, 0, 1, 0)]))
    quick = watch.get_text

    def slow(url: str, api_key_variable: str | None = None) -> str:
        time.sleep(0.02)
        return quick(url, api_key_variable=api_key_variable)

    monkeypatch.setattr(watch, "get_text", slow)
    with ServerWatch(HERE, NAMES):
        time.sleep(0.4)
    # The counters before, and the gauges once: after an answer of 20 ms it takes two seconds until the next question.
    assert len(asked) == 2
