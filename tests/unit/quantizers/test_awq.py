import pytest
from pydantic import ValidationError

from quantizers.methods.awq import AWQ, Config

SHAPES = {
    "model.layers.0.mlp.up_proj": (1536, 576),
    "model.layers.1.mlp.up_proj": (1536, 576),
}


def violations(config: Config, tensor_parallel: int = 1) -> list[str]:
    return AWQ().violations(config, SHAPES, tensor_parallel, "cpu", "bfloat16")


@pytest.mark.parametrize("wrong", [{"bits": 8}, {"group_size": -1}, {"group_size": 96}, {"zero_points": True}])
def test_wrong_parameters_are_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)


def test_fitting_group_size_has_no_violations():
    assert violations(Config(group_size=64)) == []


def test_group_size_that_does_not_divide_names_all_layers_of_the_kind():
    (line,) = violations(Config(group_size=128))
    assert "model.layers.*.mlp.up_proj (2 layers)" in line
    assert "use group_size 64" in line


def test_without_zero_point_is_refused():
    (line,) = violations(Config(group_size=64, zero_point=False))
    assert "zero_point" in line
