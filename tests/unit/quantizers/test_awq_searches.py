"""AWQ's searches beside the engine's own functions, on layers of several shapes."""

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def engine() -> Any:
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(threads=2)
    from gptqmodel.looper.awq_processor import AWQProcessor

    return AWQProcessor


def processor(engine: Any, group_size: int, symmetric: bool = False) -> Any:
    made = engine.__new__(engine)
    made.qcfg = SimpleNamespace(group_size=group_size, sym=symmetric, bits=4)
    made.duo_scaling = True
    made._scale_context = SimpleNamespace(prev_scale=None)
    made._quant_batch_size = 1
    return made


def layer(outputs: int, inputs: int, tokens: int, seed: int = 0) -> tuple[Any, Any]:
    """Weights with heavy tails and inputs with a few large channels, as trained layers have them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(outputs, inputs, generator=generator)
    weights = weights * torch.rand(outputs, inputs, generator=generator).reciprocal().clamp(max=6)
    features = torch.randn(1, tokens, inputs, generator=generator) * torch.rand(inputs, generator=generator).pow(4) * 8
    return weights, features + 0.1


@pytest.mark.parametrize(("outputs", "inputs", "group_size"), [(64, 128, 32), (256, 192, 64), (64, 256, -1)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_clip_equals_the_engines(engine: Any, outputs: int, inputs: int, group_size: int, symmetric: bool):
    import torch

    from quantizers.engines.awq_clip import compute_best_clip

    made = processor(engine, group_size, symmetric)
    weights, features = layer(outputs, inputs, tokens=700)
    theirs = engine._compute_best_clip(made, weights, features)
    ours = compute_best_clip(made, weights, features)
    assert ours.shape == theirs.shape
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, weights.reshape(ours.shape[0], ours.shape[1], -1).abs().amax(-1, keepdim=True))


def test_clip_override_is_put_back(engine: Any):
    from quantizers.engines.awq_clip import compute_best_clip, gram_clip_search

    original = engine._compute_best_clip
    with pytest.raises(KeyError), gram_clip_search():
        assert engine._compute_best_clip is compute_best_clip
        raise KeyError
    assert engine._compute_best_clip is original


def scale_arguments(outputs: int, inputs: int, linears: int = 1) -> tuple[Any, ...]:
    """(x, w_mean, x_mean, module, linears, reference) as `_search_best_scale` hands them over, in float32."""
    import torch

    group = []
    for _ in range(linears):
        weights, features = layer(outputs, inputs, tokens=40)
        linear = torch.nn.Linear(inputs, outputs, bias=False)
        linear.weight.data = weights
        linear.weight.requires_grad_(False)
        group.append(linear)
    x = features.expand(3, -1, -1) * torch.tensor([1.0, 0.5, 2.0]).view(3, 1, 1)
    x_mean = x.abs().mean((0, 1))
    w_mean = torch.cat([linear.weight.data for linear in group]).abs().mean(0)
    module = group[0] if linears == 1 else torch.nn.Sequential(*group)
    reference = [linear(row[None]).detach() for row in x for linear in group[:1]]
    return x, w_mean, x_mean, module, group, reference


@pytest.mark.parametrize("tokens_at_once", [16, 50, 4096])
def test_scale_of_one_linear_equals_the_engines(engine: Any, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch):
    import torch

    from quantizers.engines.awq_scale import compute_best_scale

    monkeypatch.setattr("quantizers.engines.awq_scale._TOKENS_AT_ONCE", tokens_at_once)
    made = processor(engine, group_size=32)
    monkeypatch.setattr(engine, "_get_root_rotary", lambda self: None)
    made.gptq_model = SimpleNamespace()
    arguments = scale_arguments(64, 96)
    weight = arguments[4][0].weight
    before = weight.clone()
    ours, our_loss = compute_best_scale(made, *arguments)
    assert torch.equal(weight, before), "the weights must be as before the search"

    # The engine forgets to copy float32 weights on a CPU; given a copy it is the reference.
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", torch.Tensor.clone)
        theirs, their_loss = engine._compute_best_scale(made, *arguments, {})
    assert torch.equal(ours, theirs)
    assert our_loss == pytest.approx(their_loss, rel=1e-4)


def test_scale_of_a_group_is_by_the_outputs_of_all_its_linears(engine: Any):
    import torch

    from quantizers.engines.awq_scale import _candidate, compute_best_scale

    made = processor(engine, group_size=32)
    x, w_mean, x_mean, module, linears, reference = scale_arguments(64, 96, linears=3)

    def loss(scales: Any) -> float:
        outputs = []
        for linear in linears:
            rounded = torch.empty_like(linear.weight)
            made._pseudo_quantize_tensor_into(linear.weight * scales, rounded)
            outputs.append((x @ (rounded / scales - linear.weight).T).flatten())
        return float(torch.cat(outputs).square().mean())

    scales, found = compute_best_scale(made, x, w_mean, x_mean, module, linears, reference)
    assert found == pytest.approx(loss(scales), rel=1e-4)
    assert found <= 1.0001 * min(loss(_candidate(made, x_mean, w_mean, step / 20)) for step in range(20))
    assert found < loss(torch.ones(96))


def test_the_lowest_step_is_found_where_there_is_one_valley():
    from quantizers.engines.awq_scale import _lowest

    for bottom in range(20):
        asked: list[int] = []

        def loss(step: int, asked: list[int] = asked, bottom: int = bottom) -> float:
            asked.append(step)
            return float(abs(step - bottom))

        assert _lowest(loss) == (bottom, 0.0)
        assert len(asked) == len(set(asked)) <= 11
    assert _lowest(lambda step: 1.0)[1] == 1.0
    assert _lowest(lambda step: float("nan") if step < 8 else 2.0 - step / 20)[0] == 19
    assert _lowest(lambda step: float("nan"))[1] == float("inf")


def test_inputs_that_are_not_finite_have_no_scale(engine: Any):
    from quantizers.engines.awq_scale import compute_best_scale

    made = processor(engine, group_size=32)
    arguments = scale_arguments(64, 96)
    arguments[0][0, 0, 0] = float("nan")
    before = arguments[4][0].weight.clone()
    with pytest.raises(ValueError, match="no scale gave a finite loss"):
        compute_best_scale(made, *arguments)
    assert arguments[4][0].weight.equal(before)


def test_no_module_is_run_for_the_search_and_the_engine_is_whole_afterwards(engine: Any):
    from quantizers.engines.awq_scale import compute_best_scale, quadratic_scale_search

    originals = engine._compute_best_scale, engine._iter_module_forward_outputs
    with pytest.raises(KeyError), quadratic_scale_search():
        assert engine._compute_best_scale is compute_best_scale
        assert list(processor(engine, group_size=32)._iter_module_forward_outputs(None, None)) == []
        raise KeyError
    assert (engine._compute_best_scale, engine._iter_module_forward_outputs) == originals


def test_the_engine_ruins_float32_weights(engine: Any, monkeypatch: pytest.MonkeyPatch):
    """Why the scale search is replaced; once this fails, the engine is mended and the copy can go."""
    import torch

    made = processor(engine, group_size=32)
    monkeypatch.setattr(engine, "_get_root_rotary", lambda self: None)
    made.gptq_model = SimpleNamespace()
    arguments = scale_arguments(64, 96)
    before = arguments[4][0].weight.clone()
    with torch.inference_mode():
        engine._compute_best_scale(made, *arguments, {})
    assert not torch.equal(arguments[4][0].weight, before)
