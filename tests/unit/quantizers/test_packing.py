"""The engine's own packing beside ours: the bytes must be the same."""

from typing import Any

import pytest

pytestmark = pytest.mark.engine

GROUP_SIZE = 32


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(threads=2)


def packed(kind: str, outputs: int, inputs: int, bits: int, function: Any, bias: bool) -> dict[str, Any]:
    """The buffers that `function` gives a fresh module for random weights, half of them between two levels."""
    import torch
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    module = {"awq": AwqTorchLinear, "gptq": TorchLinear}[kind](
        bits=bits,
        group_size=GROUP_SIZE,
        sym=kind == "gptq",
        desc_act=False,
        in_features=inputs,
        out_features=outputs,
        bias=bias,
        pack_dtype=torch.int32,
        register_buffers=False,
    )
    generator = torch.Generator().manual_seed(0)
    groups = inputs // GROUP_SIZE
    scales = torch.rand(outputs, groups, generator=generator) + 0.01
    zeros = torch.randint(0, 2**bits, (outputs, groups), generator=generator).float()
    levels = torch.randint(0, 2**bits, (outputs, groups, GROUP_SIZE), generator=generator)
    between = torch.rand(levels.shape, generator=generator) * torch.randint(0, 2, levels.shape, generator=generator)
    # Within the range: the engine's AWQ packing lets a level above it run into the next one's bits.
    levels = (levels + between * 0.4).clamp(0, 2**bits - 1)
    linear = torch.nn.Linear(inputs, outputs, bias=bias)
    linear.weight.data = ((levels - zeros[..., None]) * scales[..., None]).flatten(1)
    g_idx = torch.arange(inputs, dtype=torch.int32).flip(0) // GROUP_SIZE if kind == "gptq" else None
    if bias:
        linear.bias.data = torch.linspace(-1, 1, outputs)
    function(module, linear=linear, scales=scales, zeros=zeros, g_idx=g_idx)
    return dict(module.named_buffers())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 32), (96, 224), (192, 576)])
@pytest.mark.parametrize(("kind", "bits"), [("awq", 4), ("gptq", 4), ("gptq", 8)])
def test_bytes_equal_the_engines(kind: str, bits: int, outputs: int, inputs: int, bias: bool):
    import torch
    from gptqmodel.nn_modules.qlinear import PackableQuantLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    from quantizers.engines.packing import pack_awq, pack_gptq

    engines = AwqTorchLinear.pack if kind == "awq" else PackableQuantLinear.pack_original
    theirs = packed(kind, outputs, inputs, bits, engines, bias)
    ours = packed(kind, outputs, inputs, bits, pack_awq if kind == "awq" else pack_gptq, bias)
    assert ours.keys() == theirs.keys()
    assert {name: tensor.dtype for name, tensor in ours.items()} == {n: t.dtype for n, t in theirs.items()}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert ours["qweight"].unique().numel() > outputs // 8


def test_outputs_that_fill_no_word_are_refused():
    from quantizers.engines.packing import pack_awq

    with pytest.raises(ValueError, match="36 columns do not fill words of 8"):
        packed("awq", 36, 64, 4, pack_awq, bias=False)


def test_the_engines_functions_are_put_back():
    from gptqmodel.nn_modules.qlinear import PackableQuantLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    from quantizers.engines.packing import pack_gptq, whole_tensor_packing

    originals = AwqTorchLinear.pack, PackableQuantLinear.pack_block
    with pytest.raises(KeyError), whole_tensor_packing():
        assert PackableQuantLinear.pack_block is pack_gptq
        raise KeyError
    assert (AwqTorchLinear.pack, PackableQuantLinear.pack_block) == originals
