"""What engines do not serve, as data: by method, engine, ranks, device, instructions, bits, head size, mixed precision,
architecture; with sources."""

from collections.abc import Collection
from typing import NamedTuple

from registry.contracts.base import Device, Method, format_of

VLLM_VERSION = "0.32.0"
"""The version that vLLM's rows were read from."""


class Refusal(NamedTuple):
    """A combination that a serving engine does not take. None in a column means: any."""

    because: str
    remedy: str
    source: str
    """File, below the environment's packages, that the row was read from."""
    says: str
    """A piece of that file; when it is gone, the row has to be read anew."""
    method: Method | None = None
    """By which the artifact's format is known."""
    engine: str = "vllm"
    tensor_parallel: bool | None = None
    """True: over more than one rank."""
    pipeline_parallel: bool | None = None
    device: Device | None = None
    instructions: frozenset[str] = frozenset()
    """The row holds on a CPU that lacks one of them."""
    bits: int | None = None
    """Per weight."""
    head_sizes: tuple[int, ...] | None = None
    """Features of an attention head that are served; the row holds for all others."""
    mixed: bool | None = None
    """True: modules of one artifact have several precisions."""
    experts: bool | None = None
    """True: of mixtures of experts."""
    architecture: str | None = None
    """Of the model, as its config.json names it."""


class Asked(NamedTuple):
    """How one model is to be served."""

    method: Method | None
    """That made the artifact; None for the baseline."""
    device: Device | None
    """None for what holds on every device."""
    tensor_parallel: int
    """Ranks that share each layer."""
    pipeline_parallel: int = 1
    """Ranks that share the layers out among them."""
    engine: str = "vllm"
    cpu_flags: Collection[str] | None = None
    """None where it is not known, as below."""
    bits: int | None = None
    head_size: int | None = None
    mixed: bool = False
    experts: bool = False
    """Whether the model is a mixture of experts; False also where that is not known yet."""
    architecture: str | None = None


_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
"""What torch asks for before it calls a CPU one with AVX512; vLLM chooses its library of kernels by that."""

_BITSANDBYTES_SHARDED = Refusal(
    because="it does not shard prequantized bitsandbytes weights over tensor-parallel ranks",
    remedy="set serving.tensor_parallel_size to 1 or take gptq or awq",
    source="vllm_bnb_plugin/bitsandbytes_loader.py",
    says="Prequant BitsAndBytes models with tensor parallelism is not",
    tensor_parallel=True,
)
_4_BITS_WITHOUT_AVX512 = Refusal(
    because="its CPU kernel for packed weights is made of AVX512 instructions, which this CPU lacks: the first request"
    " ends the server",
    remedy="take bnb_nf4 or bnb_int8, or serve on a CPU with AVX512 or on a GPU",
    source="vllm/platforms/cpu.py",
    says="import vllm._C_AVX2",
    device="cpu",
    instructions=_AVX512,
)
_8_BITS_PACKED = Refusal(
    because="it has no CPU kernel for packed weights in 8 bits",
    remedy="set bits to 4 (mixed_precision.choices: [4, 16]), or take w8a8 or bnb_int8",
    source="vllm/model_executor/kernels/linear/mixed_precision/cpu.py",
    says="_CPUWNA16_SUPPORTED_QUANT_TYPES = (scalar_types.uint4, scalar_types.uint4b8)",
    device="cpu",
    bits=8,
)
_GEMMA_3N_IN_PARTS = Refusal(
    because="its tree of this model has two decoders, the files have one, and what loads bitsandbytes does not find"
    " the Linears there: the server ends when it loads them",
    remedy="take rtn or w8a8",
    source="vllm/model_executor/models/gemma3n.py",
    says="every other submodule lives under self_decoder",
    architecture="Gemma3nForCausalLM",
)
_EXPERTS_WITHOUT_AMX = Refusal(
    because="its CPU kernels for quantized experts are made of AMX instructions, which this CPU lacks",
    remedy="take gguf with serving.engine llamacpp, which any CPU serves, or a GPU, or a CPU with AMX",
    source="vllm/model_executor/layers/fused_moe/experts/cpu_moe.py",
    says="and torch.cpu._is_amx_tile_supported()",
    device="cpu",
    instructions=frozenset({"amx_bf16"}),
    experts=True,
)
_FP8_EXPERTS = Refusal(
    because="its CPU kernels take experts in FP8 by blocks of 128 weights alone, and these have a scale a row",
    remedy="take gguf with serving.engine llamacpp, which any CPU serves, or a GPU",
    source="vllm/model_executor/layers/fused_moe/experts/cpu_moe.py",
    says="(kFp8Static128BlockSym, kFp8Dynamic128Sym),",
    method="fp8",
    device="cpu",
    experts=True,
)
_TRANSFORMERS_ONE_PROCESS = Refusal(
    because="it runs a model in one process",
    remedy="set serving.tensor_parallel_size and serving.pipeline_parallel_size to 1 or take the engine vllm",
    source="transformers/cli/serve.py",
    says="continuous_batching: Annotated[",
    engine="transformers",
)
_TRANSFORMERS_WITHOUT_EXPERTS = Refusal(
    because="transformers looks for plain weights of the experts, and fills what it does not find with random numbers",
    remedy="set serving.engine to vllm, or take rtn, fp8 or the baseline alone",
    source="transformers/conversion_mapping.py",
    says='"mlp.experts.*.gate_proj.weight"',
    engine="transformers",
    experts=True,
)
_LLAMACPP = Refusal(
    because="it reads GGUF alone",
    remedy="set serving.engine to vllm, or take the method gguf",
    source="xllamacpp/__init__.py",
    says="from .xllamacpp import *",
    engine="llamacpp",
)
_NO_GGUF: tuple[Method, ...] = ("gptq", "awq", "bnb_nf4", "bnb_int8", "rtn", "w8a8", "fp8", "nvfp4")
"""All formats but GGUF."""

REFUSALS = (
    _BITSANDBYTES_SHARDED._replace(method="bnb_nf4"),
    _BITSANDBYTES_SHARDED._replace(method="bnb_int8"),
    Refusal(
        because="a later stage's CPU worker fails on an assertion at the first request: no warm-up made its buffers",
        remedy="set serving.pipeline_parallel_size to 1",
        source="vllm/v1/worker/gpu_model_runner.py",
        says="assert self.intermediate_tensors is not None",
        pipeline_parallel=True,
        device="cpu",
    ),
    _4_BITS_WITHOUT_AVX512._replace(method="gptq"),
    _4_BITS_WITHOUT_AVX512._replace(method="awq"),
    _4_BITS_WITHOUT_AVX512._replace(method="rtn"),
    Refusal(
        because="it multiplies 8-bit integers through oneDNN, whose sums overflow on a CPU without AVX512 VNNI, as this"
        " one is: the answers would be wrong",
        remedy="take bnb_int8, or serve on a CPU with AVX512 VNNI or on a GPU",
        source="vllm/model_executor/kernels/linear/scaled_mm/cpu.py",
        says="self.dnnl_handler = ops.create_onednn_scaled_mm(",
        method="w8a8",
        device="cpu",
        instructions=_AVX512 | {"avx512_vnni"},
    ),
    Refusal(
        because="it has no kernel for NVFP4 on a CPU",
        remedy="take w4a16_gptq, or serve on a GPU",
        source="vllm/model_executor/kernels/linear/__init__.py",
        says="        EmulationNvFp4LinearKernel,\n    ],\n}\n\n_POSSIBLE_MXFP6_KERNELS",
        method="nvfp4",
        device="cpu",
    ),
    Refusal(
        because="it reads no GGUF",
        remedy="set serving.engine to llamacpp, or take another method",
        source="vllm/model_executor/layers/quantization/__init__.py",
        says='    "torchao",\n    "inc",\n    "mxfp4",\n    "gpt_oss_mxfp4",',
        method="gguf",
    ),
    Refusal(
        because="it takes a GGUF file by a name of the hub's with a colon, and no folder with one",
        remedy="set serving.engine to llamacpp, or take another method",
        source="transformers/cli/serving/model_manager.py",
        says="repo, gguf_file = split_model_id(force_model)",
        method="gguf",
        engine="transformers",
    ),
    *(_LLAMACPP._replace(method=method) for method in _NO_GGUF),
    _LLAMACPP._replace(
        because="its package comes for CPUs",
        remedy="set device to cpu, or serving.engine to vllm",
        device="cuda",
    ),
    _EXPERTS_WITHOUT_AMX._replace(method="gptq"),
    _EXPERTS_WITHOUT_AMX._replace(method="awq"),
    _EXPERTS_WITHOUT_AMX._replace(method="rtn"),
    _EXPERTS_WITHOUT_AMX._replace(method="w8a8"),
    _FP8_EXPERTS,
    Refusal(
        because="it asks of a GPTQ artifact whether gate_proj and up_proj are quantized, which this model's files have"
        " as one, and takes them for plain weights: the server ends when it loads them",
        remedy="take awq or w4a16_gptq",
        source="vllm/model_executor/models/glm4.py",
        says='"gate_up_proj": ["gate_proj", "up_proj"]',
        method="gptq",
        architecture="Glm4ForCausalLM",
    ),
    _GEMMA_3N_IN_PARTS._replace(method="bnb_nf4"),
    _GEMMA_3N_IN_PARTS._replace(method="bnb_int8"),
    _8_BITS_PACKED._replace(method="gptq"),
    _8_BITS_PACKED._replace(method="rtn"),
    Refusal(
        because="its attention on a CPU takes head sizes of 32, 64, 80, 96, 112, 128, 160, 192, 224, 256 and 512",
        remedy="serve this model on a GPU, where every size is taken",
        source="vllm/v1/attention/backends/cpu_attn.py",
        says="return [32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512]",
        device="cpu",
        head_sizes=(32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512),
    ),
    Refusal(
        because="transformers takes all modules of a GPTQ artifact for packed, and all in the same bits",
        remedy="set serving.engine to vllm, or leave mixed_precision out, or take awq or rtn",
        source="gptqmodel/models/auto.py",
        says="fully supported in latest vLLM and SGLang but not yet available in hf transformers",
        method="gptq",
        engine="transformers",
        mixed=True,
    ),
    _TRANSFORMERS_WITHOUT_EXPERTS._replace(method="gptq"),
    _TRANSFORMERS_WITHOUT_EXPERTS._replace(method="awq"),
    _TRANSFORMERS_WITHOUT_EXPERTS._replace(
        method="w8a8",
        because="transformers takes experts in plain integers for packed ones, and refuses them",
        source="transformers/quantizers/quantizer_compressed_tensors.py",
        says='packed_weight = [p + "_packed$" for p in weight_sources]',
    ),
    _TRANSFORMERS_ONE_PROCESS._replace(tensor_parallel=True),
    _TRANSFORMERS_ONE_PROCESS._replace(pipeline_parallel=True),
)


def serving_violations(asked: Asked) -> list[str]:
    """Why the engine would not serve a model so; empty where it would."""
    return [
        f"{asked.engine}: {row.because}{_size(row, asked)} ({row.source}); {row.remedy}"
        for row in REFUSALS
        if _holds(row, asked)
    ]


def _holds(row: Refusal, asked: Asked) -> bool:
    columns = (
        (row.method, asked.method and format_of(asked.method)),
        (row.engine, asked.engine),
        (row.tensor_parallel, asked.tensor_parallel > 1),
        (row.pipeline_parallel, asked.pipeline_parallel > 1),
        (row.device, asked.device),
        (row.bits, asked.bits),
        (row.mixed, asked.mixed),
        (row.experts, asked.experts),
        (row.architecture, asked.architecture),
    )
    if row.head_sizes and (asked.head_size is None or asked.head_size in row.head_sizes):
        return False
    if row.instructions and (asked.cpu_flags is None or row.instructions <= set(asked.cpu_flags)):
        return False
    return all(column in (None, value) for column, value in columns)


def _size(row: Refusal, asked: Asked) -> str:
    return f"; this model's is {asked.head_size}" if row.head_sizes else ""
