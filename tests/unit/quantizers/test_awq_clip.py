"""The engine's own functions beside ours, on layers of several shapes: the choice must be the same."""

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


def scale_arguments(outputs: int, inputs: int, kind: str) -> tuple[Any, ...]:
    """(x, w_mean, x_mean, module, linears, reference, kwargs) as `_search_best_scale` hands them over, in float32."""
    import torch

    weights, features = layer(outputs, inputs, tokens=40)
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    linear.weight.data = weights
    linear.weight.requires_grad_(False)

    class Mixing(torch.nn.Module):
        """Tokens of a row see each other, as in attention."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: torch.Tensor, is_causal: bool = False) -> torch.Tensor:
            return self.linear(x).cumsum(1) if is_causal else self.linear(x)

    apart = torch.nn.Sequential(linear, torch.nn.SiLU())
    module = {"linear": linear, "tokens apart": apart, "tokens together": Mixing()}[kind]
    kwargs = {"is_causal": True} if kind == "tokens together" else {}
    x = features.expand(3, -1, -1) * torch.tensor([1.0, 0.5, 2.0]).view(3, 1, 1)
    x_mean, w_mean = x.abs().mean((0, 1)), weights.abs().mean(0)
    reference = [module(row[None], **kwargs).detach() for row in x]
    return x, w_mean, x_mean, module, [linear], reference, kwargs


@pytest.mark.parametrize("kind", ["linear", "tokens apart", "tokens together"])
@pytest.mark.parametrize("tokens_at_once", [16, 50, 1024])
def test_scale_equals_the_engines(engine: Any, kind: str, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch):
    import torch

    from quantizers.engines.awq_scale import compute_best_scale

    monkeypatch.setattr("quantizers.engines.awq_scale._TOKENS_AT_ONCE", tokens_at_once)

    made = processor(engine, group_size=32)
    monkeypatch.setattr(engine, "_get_root_rotary", lambda self: None)
    made.gptq_model = SimpleNamespace()
    arguments = scale_arguments(64, 96, kind)
    weight = arguments[4][0].weight
    before = weight.clone()
    ours, our_loss = compute_best_scale(made, *arguments)
    assert torch.equal(weight, before), "the weights must be as before the search"
    assert made._quant_batch_size == 1

    # The engine forgets to copy float32 weights on a CPU; given a copy it is the reference.
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", torch.Tensor.clone)
        theirs, their_loss = engine._compute_best_scale(made, *arguments)
    assert torch.equal(ours, theirs)
    assert our_loss == pytest.approx(their_loss, rel=1e-4)


def test_the_engine_ruins_float32_weights(engine: Any, monkeypatch: pytest.MonkeyPatch):
    """Why the scale search is replaced; once this fails, the engine is mended and the copy can go."""
    import torch

    made = processor(engine, group_size=32)
    monkeypatch.setattr(engine, "_get_root_rotary", lambda self: None)
    made.gptq_model = SimpleNamespace()
    arguments = scale_arguments(64, 96, "linear")
    before = arguments[4][0].weight.clone()
    with torch.inference_mode():
        engine._compute_best_scale(made, *arguments)
    assert not torch.equal(arguments[4][0].weight, before)
