"""AWQ's compensated rounding: on its levels, better than clip and nearest level, and given to the right Linear."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.quantizers.test_awq_searches import engine, layer, processor

__all__ = ["engine"]

pytestmark = pytest.mark.engine
GROUP = 64


def error(change: Any, inputs: Any) -> float:
    """Of the outputs, summed squares."""
    return float((inputs @ change.t()).square().sum())


@pytest.mark.parametrize("tokens", [40, 700])
def test_the_output_s_error_is_below_that_of_clips(engine: Any, tokens: int) -> None:
    import torch

    from quantizers.engines.awq_clip import compute_best_clip
    from quantizers.engines.awq_round import round_linear

    weights, inputs = layer(64, 256, tokens)
    # Channels of real layers are correlated; without that there is little to make up for.
    inputs = inputs @ torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    made = processor(engine, GROUP)
    clip = compute_best_clip(made, weights, inputs)
    clipped = weights.reshape(64, -1, GROUP).clamp(-clip, clip).reshape(weights.shape)
    nearest, _, _ = engine.pseudo_quantize_tensor(made, clipped)
    before = weights.clone()
    found = round_linear(weights, inputs, group_size=GROUP, bits=4)
    assert torch.equal(weights, before)
    assert error(found.weights - weights, inputs) < 0.7 * error(nearest - weights, inputs)


def test_every_weight_lies_on_its_group_s_levels() -> None:
    import torch

    from quantizers.engines.awq_round import round_linear

    weights, inputs = layer(48, 256, 300)
    found = round_linear(weights, inputs, group_size=GROUP, bits=4)
    assert found.scales.shape == found.zeros.shape == (48, 4)
    codes = (found.weights.reshape(48, 4, GROUP) / found.scales[..., None]) + found.zeros[..., None]
    torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
    assert float(codes.min()) > -0.5
    assert float(codes.max()) < 15.5
    assert torch.equal(found.zeros, found.zeros.round())


@pytest.mark.parametrize("seen", ["none", "some"])
def test_columns_that_saw_nothing_are_rounded_too(seen: str) -> None:
    from quantizers.engines.awq_round import round_linear

    weights, inputs = layer(48, 128, 50)
    inputs = inputs * 0 if seen == "none" else inputs
    inputs[..., 5:9] = 0
    found = round_linear(weights, inputs, group_size=GROUP, bits=4)
    assert float((found.weights - weights).abs().max()) <= float(found.scales.max()) * 8
    assert found.weights.isfinite().all()


def test_inputs_that_are_not_finite_are_an_error() -> None:
    import torch

    from quantizers.engines.awq_round import round_linear

    weights, inputs = layer(48, 128, 50)
    inputs[0, 3, 7] = torch.inf
    with pytest.raises(torch.linalg.LinAlgError):
        round_linear(weights, inputs, group_size=GROUP, bits=4)


def test_each_linear_gets_its_own_and_nothing_is_clipped(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from quantizers.engines.awq_round import compensated_rounding, round_linear

    given: dict[str, Any] = {}

    def own_apply(self: Any, named_linears: dict[str, Any], scales_list: Any) -> None:
        for name, linear in named_linears.items():
            given[name] = self.pseudo_quantize_tensor(linear.weight.data)

    monkeypatch.setattr(engine, "apply_quant", own_apply)
    linears, inputs = {}, {}
    for seed, name in enumerate(("q_proj", "v_proj", "down_proj")):
        weights, inputs[name] = layer(48, 128, 60, seed)
        linears[name] = torch.nn.Linear(128, 48, bias=False)
        linears[name].weight.data = weights
    made = processor(engine, GROUP)
    originals = engine._search_best_clip, engine.pseudo_quantize_tensor
    with compensated_rounding():
        assert engine._search_best_clip(made, None, linears, inputs) == []
        # The engine leaves out Linears that it saw nothing of, and takes them in an order of its own.
        engine.apply_quant(made, {name: linears[name] for name in ("down_proj", "q_proj")}, [])
        with pytest.raises(KeyError):
            engine.apply_quant(made, {"o_proj": SimpleNamespace(weight=linears["q_proj"].weight)}, [])
    assert (engine._search_best_clip, engine.pseudo_quantize_tensor) == originals
    assert set(given) == {"down_proj", "q_proj"}
    for name, (weights, scales, zeros) in given.items():
        expected = round_linear(linears[name].weight.data, inputs[name], group_size=GROUP, bits=4)
        assert torch.equal(weights, expected.weights)
        assert torch.equal(scales, expected.scales)
        assert torch.equal(zeros, expected.zeros)
