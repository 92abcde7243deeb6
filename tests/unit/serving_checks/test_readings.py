"""Reading logs and metrics: pure functions."""

import pytest

from serving_checks import server_log
from serving_checks.metrics import kv_cache_tokens, parse_metrics, total

LOG = """\
(APIServer pid=1) WARNING 11-21 04:32:42 [vllm.py:1703] Enforce eager set, disabling torch.compile
(EngineCore pid=2) INFO 11-21 04:32:42 [auto_gptq.py:352] Using CPUWNA16LinearKernel for AutoGPTQLinearMethod
(EngineCore pid=2) INFO 11-21 04:32:42 [utils.py:347] Using LBHNC KV cache layout.
(EngineCore pid=2) WARNING 11-21 04:32:43 [x.py:1] Falling back to a slow kernel
(EngineCore pid=2) WARNING 11-21 04:32:44 [x.py:1] Falling back to a slow kernel
"""


def test_log_gives_kernel_and_distinct_unexpected_warnings():
    assert server_log.kernel_of(LOG) == "CPUWNA16LinearKernel"
    assert server_log.warnings_of(LOG) == ["Falling back to a slow kernel"]
    assert server_log.kernel_of("nothing") is None


def test_weights_of_each_rank_are_read():
    log = "Model loading took 1.5 GiB memory and 2.0 seconds\nModel loading took 0.5 GiB memory and 2.0 seconds"
    assert server_log.weights_bytes_of(log) == [3 * 2**29, 2**29]
    assert server_log.weights_bytes_of("") == []


@pytest.mark.parametrize(
    ("log", "reason", "remedy"),
    [
        (
            "ValueError: x\nRuntimeError: Engine core initialization failed. See above",
            "ValueError: x",
            "run the command",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory", "OutOfMemoryError: CUDA out of memory", "kv_cache_gib"),
        ("ValueError: max_model_len (9) is greater", "ValueError: max_model_len (9) is greater", "max_model_len"),
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig\n"
            "  Value error, max_num_batched_tokens (8) must be greater. [type=value_error, input_value=Args(())]\n"
            "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
            "max_num_batched_tokens (8) must be greater.",
            "raise `max_num_batched_tokens`",
        ),
    ],
)
def test_death_names_the_first_cause(log, reason, remedy):
    death = server_log.death_of(log, 1)
    assert death.reason == reason
    assert remedy in death.remedy


def test_death_without_a_word():
    assert "SIGKILL" in server_log.death_of("", 137).reason
    assert "no error" in server_log.death_of("", 1).reason


PAGE = """\
# HELP a_total things
a_total{kind="x",note="say \\"hi\\", {ok}\\n"} 3.0
a_total{kind="y"} 4
vllm:cache_config_info{block_size="128",kv_cache_size_tokens="23296"} 1.0
odd_value NaN
not a sample
"""


def test_metrics_are_parsed():
    samples = parse_metrics(PAGE)
    assert samples[0].labels == {"kind": "x", "note": 'say "hi", {ok}\n'}
    assert total(samples, "a_total") == 7.0
    assert total(samples, "missing") is None
    assert kv_cache_tokens(samples) == 23296
    assert len(samples) == 4


@pytest.mark.parametrize("page", ["", 'vllm:cache_config_info{kv_cache_size_tokens="None"} 1'])
def test_unresolved_kv_cache_is_none(page):
    assert kv_cache_tokens(parse_metrics(page)) is None
