"""What a token asks of the machine, from config.json alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from pipelines.stage_programs.token_work import token_work

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 512,
}
INT8 = {"num_bits": 8, "type": "int"}


def work_of(folder: Path, **changes: Any) -> Any:
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    return token_work(folder, "bfloat16")


def test_a_llama_s_work_is_counted(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    # q and o are square, k and v have half the rows; three matrices of the MLP.
    assert work.linear_parameters == 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 256)
    assert work.head_parameters == 512 * 128
    assert work.kv_values == 2 * 2 * 2 * 32
    assert work.attention_flop == 4 * 2 * 4 * 32
    assert (work.sliding_window, work.multiplied_in) == (None, "bfloat16")


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ({"quant_method": "gptq", "bits": 4}, "bfloat16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bfloat16"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "gguf", "type": "q4_k_m"}, "int8"),
        ({"config_groups": {"linear": {"weights": INT8, "input_activations": INT8}}}, "int8"),
        ({"config_groups": {"linear": {"weights": INT8, "input_activations": None}}}, "bfloat16"),
        ({"config_groups": {"a": {"input_activations": INT8}, "b": {}}}, "bfloat16"),
    ],
)
def test_weights_alone_are_multiplied_in_the_dtype_of_activations(
    tmp_path: Path, quantization: dict[str, Any], dtype: str
) -> None:
    assert work_of(tmp_path, quantization_config=quantization).multiplied_in == dtype


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"sliding_window": 64}, 64),
        ({"sliding_window": 64, "use_sliding_window": False}, None),
        ({"sliding_window": None}, None),
    ],
)
def test_a_window_is_one_that_is_used(tmp_path: Path, changes: dict[str, Any], window: int | None) -> None:
    assert work_of(tmp_path, **changes).sliding_window == window


@pytest.mark.parametrize(
    "changes", [{"architectures": ["MixtralForCausalLM"]}, {"vocab_size": None}, {"hidden_size": "128"}]
)
def test_a_model_that_is_not_known_is_refused_and_not_guessed(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        work_of(tmp_path, **changes)
