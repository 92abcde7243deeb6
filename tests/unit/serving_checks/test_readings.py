"""Reading logs and metrics: pure functions."""

from pathlib import Path

import pytest

from serving_checks.engines import vllm_log
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.transport.metrics import number, parse_metrics, total

NAMES = VllmEngine(VllmServerConfig()).metrics

LOG = """\
(APIServer pid=1) WARNING 11-21 04:32:42 [vllm.py:1703] Enforce eager set, disabling torch.compile
(EngineCore pid=2) INFO 11-21 04:32:42 [auto_gptq.py:352] Using CPUWNA16LinearKernel for AutoGPTQLinearMethod
(EngineCore pid=2) INFO 11-21 04:32:42 [utils.py:347] Using LBHNC KV cache layout.
(EngineCore pid=2) WARNING 11-21 04:32:43 [x.py:1] Falling back to a slow kernel
(EngineCore pid=2) WARNING 11-21 04:32:44 [x.py:1] Falling back to a slow kernel
"""


def test_log_gives_kernel_and_distinct_unexpected_warnings():
    assert vllm_log.kernel_of(LOG) == "CPUWNA16LinearKernel"
    assert vllm_log.warnings_of(LOG) == ["Falling back to a slow kernel"]
    assert vllm_log.kernel_of("nothing") is None


def test_what_is_said_of_many_layers_is_one_warning():
    line = (
        "(EngineCore pid=2) WARNING 11-21 04:32:43 [utils.py:333] Attempted to load weight"
        " layers.{}.mlp.down_proj.scales with dtype torch.float16 into parameter with dtype torch.bfloat16\n"
    )
    assert vllm_log.warnings_of("".join(line.format(layer) for layer in range(30))) == [
        "Attempted to load weight layers.0.mlp.down_proj.scales with dtype torch.float16 into parameter with dtype"
        " torch.bfloat16 (and 29 more layers)"
    ]


def test_a_cast_that_bitsandbytes_tells_is_a_warning():
    said = "MatMul8bitLt: inputs will be cast from torch.bfloat16 to float16 during quantization"
    assert vllm_log.warnings_of(f"INFO:     ready.\n{said}\n{said}\n") == [said]


def test_weights_of_each_rank_are_read():
    log = "Model loading took 1.5 GiB memory and 2.0 seconds\nModel loading took 0.5 GiB memory and 2.0 seconds"
    assert vllm_log.weights_bytes_of(log) == [3 * 2**29, 2**29]
    assert vllm_log.weights_bytes_of("") == []


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
    death = vllm_log.death_of(log)
    assert death.reason == reason
    assert remedy in death.remedy


def test_death_without_a_word():
    assert vllm_log.death_of("") is None


PAGE = """\
# HELP a_total things
a_total{kind="x",note="say \\"hi\\", {ok}\\n"} 3.0
a_total{kind="y"} 4
vllm:cache_config_info{kv_cache_memory_bytes="4096",kv_cache_size_tokens="23296",kv_cache_max_concurrency="45.5"} 1
odd_value NaN
not a sample
"""


def test_metrics_are_parsed():
    samples = parse_metrics(PAGE)
    assert samples[0].labels == {"kind": "x", "note": 'say "hi", {ok}\n'}
    assert total(samples, "a_total") == 7.0
    assert total(samples, "missing") is None
    told = [number(samples, name) for name in (NAMES.kv_cache_bytes, NAMES.kv_cache_tokens, NAMES.kv_cache_requests)]
    assert told == [4096, 23296, 45.5]
    assert number(samples, "a_total") == 7.0
    assert number(samples, None) is None
    assert len(samples) == 4


@pytest.mark.parametrize(
    "page", ["", "vllm:cache_config_info 1", 'vllm:cache_config_info{kv_cache_size_tokens="None"} 1', "other 1"]
)
def test_unresolved_kv_cache_is_none(page):
    assert number(parse_metrics(page), NAMES.kv_cache_tokens) is None


def test_files_that_ranks_share_are_known_by_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_log, "_SHARED_MEMORY", tmp_path)
    ours, other = "vllm_dist_" + "0a" * 16, "vllm_dist_" + "0b" * 16
    for name in (f"{ours}-tp:0-[0-1]-cpushm_0", f"{ours}-tp:0-[0-1]-cpushm_1", f"{other}-tp:0-[0-1]-cpushm_0"):
        (tmp_path / name).touch()
    log = f"[parallel_state.py:1906] world_size=2 rank=0 distributed_init_method=file:///tmp/qb-x/{ours} backend=gloo\n"
    assert vllm_log.shared_memory_of(log) == {str(tmp_path / f"{ours}-tp:0-[0-1]-cpushm_{rank}") for rank in (0, 1)}
    assert vllm_log.shared_memory_of("distributed_init_method=tcp://127.0.0.1:4711 backend=nccl") == set()
