"""The starvation check against servers whose long prompts hold up the short ones, and whose do not."""

import json

import pytest
from pydantic import ValidationError

from configs.errors import RequestError, StageError
from registry.contracts.serving import Endpoint
from serving_checks.checks.starvation import StarvationConfig, Waits, check_starvation, judge, random_prompts
from tests.fake_servers import fake_server

pytestmark = pytest.mark.slow  # servers that keep time

CONFIG = StarvationConfig(
    short_requests=6,
    short_prompt_tokens=10,
    long_requests=2,
    long_clients=1,
    long_prompt_tokens=1000,
    output_tokens=1,
    max_ttft_ratio=6,
    deadline_seconds=60,
)
# A short request alone takes 0.035 s; a long prompt holds up everybody for 0.5 s, or for 0.01 s a step.
TIMES = ("--ttft-seconds", "0.03", "--prefill-tokens-per-second", "2000", "--prefill-chunk-tokens", "20")
WAITS = Waits(1000, short_alone=[0.1, 0.1], short_mixed=[0.2, 0.5], long_mixed=[1.0, 2.0])


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 100}))
    return tmp_path


def test_a_prefill_that_holds_up_all_others_fails(model_dir):
    with fake_server(model_dir, *TIMES) as endpoint:
        record = check_starvation(endpoint, CONFIG)
    assert (record.check, record.outcome) == ("starvation", "fail")
    assert "beside prompts of 1000 tokens" in record.reason
    assert record.numbers["short_ttft_p99_ratio"] > 6
    assert record.numbers["long_ttft_max_seconds"] >= 0.5
    assert record.numbers["short_requests_alone"] == 6


def test_chunked_prefill_passes(model_dir):
    with fake_server(model_dir, *TIMES, "--chunked-prefill") as endpoint:
        record = check_starvation(endpoint, CONFIG)
    assert record.outcome == "pass", record
    assert record.numbers["short_requests_mixed"] >= 6
    assert record.numbers["long_requests"] == 2


def test_prompts_of_the_caller_are_sent(tmp_path):
    asked = []

    def prompt_of(tokens):
        asked.append(tokens)
        return "word " * tokens

    config = CONFIG.model_copy(update={"long_prompt_tokens": 50, "max_ttft_ratio": 1e6})
    with fake_server(tmp_path, "--max-model-len", "51") as endpoint:  # more words than asked for would be refused
        assert check_starvation(endpoint, config, prompt_of).outcome == "pass"
    assert asked.count(50) == 2
    assert asked.count(10) >= 1 + 6 + 6


def test_random_prompts_are_seeded_exact_and_all_different(model_dir):
    draw, again, other = (random_prompts(model_dir, seed) for seed in (1, 1, 2))
    prompts = [draw(8) for _ in range(50)]
    assert prompts == [again(8) for _ in range(50)]
    assert prompts[0] != other(8)
    assert len({tuple(prompt) for prompt in prompts}) == 50
    assert all(len(prompt) == 8 and set(prompt) <= set(range(100)) for prompt in prompts)


def test_a_nested_vocabulary_is_found(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 1}}))
    assert random_prompts(tmp_path, 0)(3) == [0, 0, 0]


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '{"vocab_size": null}'])
def test_an_unknown_vocabulary_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RequestError, match="vocabulary"):
        random_prompts(tmp_path, 0)


def test_prompts_longer_than_the_context_are_refused():
    endpoint = Endpoint(base_url="http://127.0.0.1:9", served_model_name="model", model_path="", max_model_len=1000)
    with pytest.raises(RequestError, match="1000 \\+ 1 tokens"):
        check_starvation(endpoint, CONFIG)


def test_a_server_that_dies_meanwhile_is_told(model_dir):
    with (
        fake_server(model_dir, "--mode", "die-half-way", "--die-after", "9") as endpoint,
        pytest.raises(StageError, match="server broke off"),
    ):
        check_starvation(endpoint, CONFIG)


def test_a_server_that_refuses_is_told(model_dir):
    with (
        fake_server(model_dir, "--max-model-len", "500") as endpoint,
        pytest.raises(StageError, match=r"answered HTTP 400.*context of 500"),
    ):
        check_starvation(endpoint, CONFIG)


def test_a_server_that_hangs_ends_at_the_deadline(model_dir):
    with fake_server(model_dir, "--mode", "silent") as endpoint:
        record = check_starvation(endpoint, CONFIG.model_copy(update={"deadline_seconds": 0.5}))
    assert (record.outcome, record.numbers) == ("not_run", {})


@pytest.mark.parametrize(
    ("limits", "outcome", "words"),
    [
        ({"max_ttft_ratio": 5.0}, "pass", "5.0 times that alone"),
        ({"max_ttft_ratio": 4.9}, "fail", "limit 4.9 times"),
        ({"max_ttft_ratio": None, "max_short_ttft_p99_seconds": 0.4}, "fail", "is 0.497 s; limit 0.4 s"),
        ({"max_ttft_ratio": None, "max_long_ttft_seconds": 1.9}, "fail", "is 2.000 s; limit 1.9 s"),
        ({"max_long_ttft_seconds": 2.0}, "pass", "limit 2 s"),
        ({"max_ttft_ratio": 1.0, "max_long_ttft_seconds": 2.0}, "fail", "limit 1 times"),
        ({"max_ttft_ratio": None}, "not_run", "no limit is set"),
    ],
)
def test_judgement(limits, outcome, words):
    record = judge(WAITS, StarvationConfig(**limits))
    assert record.outcome == outcome
    assert words in record.reason
    assert record.numbers["short_ttft_p99_ratio"] == pytest.approx(4.97)


@pytest.mark.parametrize(
    "bad",
    [
        {"short_prompt_tokens": 64, "long_prompt_tokens": 64},
        {"max_ttft_ratio": 0},
        {"short_requests": 1},
        {"long_clients": 0},
        {"patience": 1},
    ],
)
def test_bad_config_is_refused(bad):
    with pytest.raises(ValidationError):
        StarvationConfig(**bad)
