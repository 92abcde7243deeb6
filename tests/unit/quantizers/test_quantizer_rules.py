"""Rules and the method table."""

import pytest
from pydantic import ValidationError

from configs.errors import RequestError
from quantizers.base import METHODS, load_method, parse_config
from quantizers.methods.rules import cpu_kernel_violations, group_size_violations, packing_violations

SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {"self_attn.q_proj": (576, 576), "mlp.down_proj": (576, 1536)}.items()
}


def test_a_group_size_that_does_not_divide_names_layers_and_remedy() -> None:
    assert group_size_violations(SHAPES, 128, 1) == [
        "group_size 128 does not divide the 576 inputs of model.layers.*.self_attn.q_proj (2 layers); use group_size 64"
    ]
    assert group_size_violations(SHAPES, 64, 1) == []
    assert group_size_violations(SHAPES, -1, 1) == []


def test_tensor_parallel_splits_the_inputs_of_row_parallel_layers() -> None:
    found = group_size_violations({"model.layers.0.mlp.down_proj": (512, 1024)}, 128, 16)
    assert found == [
        "group_size 128 does not divide the 64 inputs of model.layers.0.mlp.down_proj on each of 16 tensor-parallel"
        " ranks; use group_size 64"
    ]
    assert group_size_violations({"model.layers.0.mlp.up_proj": (512, 1024)}, 128, 16) == []


def test_packed_words_have_to_be_full_on_every_rank() -> None:
    shapes = {"model.layers.0.mlp.up_proj": (24, 64)}
    assert packing_violations(shapes, 4, 1) == []
    assert "12 features of model.layers.0.mlp.up_proj" in packing_violations(shapes, 4, 2)[0]


def test_a_cpu_s_kernel_takes_multiples_of_32_of_what_is_loaded_as_one() -> None:
    shapes = {f"model.layers.0.self_attn.{name}_proj": (rows, 64) for name, rows in {"q": 64, "k": 16, "v": 16}.items()}
    assert cpu_kernel_violations(shapes, 1, "cpu") == []
    (line,) = cpu_kernel_violations(shapes, 2, "cpu")
    assert "model.layers.0.self_attn.qkv_proj has 48 at tensor parallel 2" in line
    assert cpu_kernel_violations(shapes, 2, "cuda") == []
    (line,) = cpu_kernel_violations({"model.layers.0.mlp.down_proj": (64, 48)}, 1, "cpu")
    assert "model.layers.0.mlp.down_proj has 48" in line


def test_every_table_line_is_a_method_whose_config_names_it() -> None:
    for name in METHODS:
        method = load_method(name)
        assert parse_config({"method": name}) == method.config_type.model_validate({"method": name})
        assert parse_config({"method": name}).method == name


def test_an_unknown_method_suggests_the_nearest() -> None:
    with pytest.raises(RequestError) as error:
        load_method("bnb_nf5")
    assert "did you mean 'bnb_nf4'?" in error.value.remedy
    with pytest.raises(RequestError, match="does not say its `method`"):
        parse_config({"bits": 4})
    with pytest.raises(ValidationError, match="group_sise"):
        parse_config({"method": "gptq", "group_sise": 64})


def test_nf4_is_not_quantized_in_float32() -> None:
    method, config = load_method("bnb_nf4"), parse_config({"method": "bnb_nf4"})
    assert method.violations(config, SHAPES, 1, "cpu", "float32") == [
        "NF4 artifacts written from float32 are not served by vLLM; quantize in bfloat16"
    ]


def test_nf4_wants_whole_blocks_in_each_row_on_a_cpu() -> None:
    method, config = load_method("bnb_nf4"), parse_config({"method": "bnb_nf4"})
    narrow = {"model.layers.0.self_attn.q_b_proj": (256, 32)}
    (line,) = method.violations(config, narrow, 1, "cpu", "bfloat16")
    assert line.startswith(
        "the rows of the 256 x 32 weights of model.layers.0.self_attn.q_b_proj do not fill blocks of 64"
    )
    assert method.violations(config, narrow, 1, "cuda", "bfloat16") == []


def test_autogptq_is_for_cuda_and_says_so_before_work() -> None:
    method = load_method("gptq_autogptq")
    config = parse_config({"method": "gptq_autogptq", "group_size": 64})
    shapes = {"model.layers.0.mlp.down_proj": (64, 128)}
    (line,) = method.violations(config, shapes, 1, "cpu", "bfloat16")
    assert line.startswith("AutoGPTQ quantizes with CUDA only")
    assert method.violations(config, shapes, 1, "cuda", "bfloat16") == []


def test_autoawq_clips_whole_blocks_of_rows() -> None:
    method = load_method("awq_autoawq")
    config = parse_config({"method": "awq_autoawq", "group_size": 64})
    (line,) = method.violations(config, {"model.layers.0.mlp.down_proj": (96, 128)}, 1, "cuda", "bfloat16")
    assert line == "model.layers.0.mlp.down_proj: AutoAWQ clips 64 rows at a time, and this one has 96; take awq"
