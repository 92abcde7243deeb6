import pytest
from pydantic import ValidationError

from configs.errors import StageError
from quantizers.engines.engine_frame import check_complete, read_rows
from quantizers.engines.gptqmodel_engine import read_quant_log
from quantizers.methods.gptq import GPTQ, Config
from registry.contracts import QuantizedModule

SHAPES = {
    "model.layers.0.self_attn.q_proj": (576, 576),
    "model.layers.0.mlp.down_proj": (576, 1536),
}


def violations(config: Config, tensor_parallel: int = 1) -> list[str]:
    return GPTQ().violations(config, SHAPES, tensor_parallel, "cpu", "float32")


def test_defaults_are_the_served_kind():
    config = Config()
    assert (config.bits, config.group_size, config.symmetric, config.desc_act) == (4, 128, True, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 3},
        {"bits": "four"},
        {"group_size": 100},
        {"damp_percent": 0},
        {"damp_percent": 1.5},
        {"range_search": "perhaps"},
        {"groupsize": 64},
        {"method": "awq"},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)


def test_fitting_group_size_has_no_violations():
    assert violations(Config(group_size=64)) == []


def test_group_size_that_does_not_divide_names_the_layer_and_the_remedy():
    (line,) = violations(Config(group_size=128))
    assert "model.layers.0.self_attn.q_proj" in line
    assert "576" in line
    assert "group_size 64" in line
    assert "down_proj" not in line


def test_asymmetric_is_refused():
    (line,) = violations(Config(group_size=64, symmetric=False))
    assert "symmetric" in line
    assert "vLLM" in line


def test_tensor_parallel_split_is_judged():
    assert any("down_proj" in line for line in violations(Config(group_size=64), tensor_parallel=5))


def entry(loss: object, module: str = "mlp.up_proj") -> dict[str, object]:
    return {"process": "gptq", "layer": 3, "module": module, "loss": loss, "damp": "0.05"}


@pytest.mark.parametrize(
    ("loss", "value", "fallback"),
    [
        ("0.0012345", 0.0012345, None),
        (0.5, 0.5, None),
        ("rtn fallback", None, "rtn fallback"),
        ("fallback(rtn): 0.0012000", None, "fallback(rtn): 0.0012000"),
        ("not applicable", None, None),
        (None, None, None),
    ],
)
def test_quant_log_losses(loss: object, value: float | None, fallback: str | None):
    (module,) = read_quant_log([entry(loss)], ["model.layers"])
    assert module == QuantizedModule(name="model.layers.3.mlp.up_proj", loss=value, fallback=fallback)


@pytest.mark.parametrize("loss", [999999999, "999999999.0000000000"])
def test_a_module_the_engine_gave_up_on_counts_as_a_fallback(loss: object):
    (module,) = read_quant_log([entry(loss)], "model.layers")
    assert module.loss is None
    assert module.fallback is not None
    assert "round-to-nearest" in module.fallback


def test_a_left_out_module_is_an_error_that_names_it():
    done = [QuantizedModule(name="model.layers.0.self_attn.q_proj")]
    with pytest.raises(StageError, match=r"left 1 of 2 .*model\.layers\.0\.mlp\.down_proj"):
        check_complete("gptqmodel", done, SHAPES)


def test_calibration_is_asked_for():
    with pytest.raises(StageError, match="calibration"):
        read_rows(None)
