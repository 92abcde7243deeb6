"""What `quantbench bench` is asked: one model, how it is served, and what is done to the server."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.errors import UnreadableError
from configs.quantities import LocalPath, Name
from configs.reading.json_text import read_json_object
from pipelines.recipe.deadlines import Deadlines
from registry.contracts.base import DType, Method
from serving_checks.checks.config import ChecksConfig
from serving_checks.engines.table import AnyServingConfig, default_config
from serving_checks.load import LoadConfig
from serving_checks.readings.cost import DevicePrice


class BenchConfig(StrictModel):
    """One server, loaded and checked; nothing is quantized and nothing evaluated."""

    version: Literal[1]
    """Of this file's format."""
    name: Name
    description: str = ""
    model: LocalPath
    """The folder that is served. Of a server that runs already, one with its model's tokenizer, by which prompts are
    cut."""
    serving: AnyServingConfig = Field(default_factory=default_config)
    """`engine` chooses what serves; each engine has keys of its own."""
    load: LoadConfig = LoadConfig()
    checks: ChecksConfig = ChecksConfig()
    price: DevicePrice | None = None
    """Of the device that serves; `configs/prices` has some to include. Without one no cost is told."""
    deadlines: Deadlines = Deadlines()
    """When to give up; those of a measurement and of its server are read."""
    profile: bool = False
    """Keep a profiler trace of a few engine steps, taken after everything that is measured."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where a GPU answers, else the CPU."""
    dtype: DType | Literal["auto"] = "auto"
    """What activations are computed in; `auto` takes what the device multiplies fast and the engine accepts."""
    fork_servers: bool = True
    """Import the engine once, and fork server and load generator from there. CPU only; plain starts otherwise."""

    @model_validator(mode="after")
    def _requests_fit_the_context(self) -> Self:
        self.load.check_fits(self.serving.max_model_len)
        self.checks.check_fits(self.serving.max_model_len, self.serving.max_num_seqs)
        return self


class ToldSizes(NamedTuple):
    """What a folder's config.json says that an engine's limits depend on; None where it does not say."""

    head_size: int | None = None
    positions: int | None = None
    """Tokens that the model reads at most; None where rope scaling may come on top."""


def sizes_of(model_dir: Path) -> ToldSizes:
    """Sizes of the model in a folder, as far as its config.json says them."""
    try:
        told = read_json_object(model_dir / "config.json")
    except UnreadableError:
        return ToldSizes()
    hidden, heads, head, positions = (
        value if type(value) is int and value > 0 else None  # True is a whole number to Python
        for value in map(told.get, ("hidden_size", "num_attention_heads", "head_dim", "max_position_embeddings"))
    )
    scaled = "factor" in str(told.get("rope_scaling")) + str(told.get("rope_parameters"))
    return ToldSizes(head or (hidden // heads if hidden and heads else None), None if scaled else positions)


def method_of(model_dir: Path) -> Method | None:
    """How the model in a folder was quantized, by its config.json; None where it was not or does not say."""
    try:
        quantization: dict[str, Any] = read_json_object(model_dir / "config.json")["quantization_config"]
        method = quantization["quant_method"]
    except (UnreadableError, LookupError, TypeError):
        return None
    if method == "bitsandbytes":
        return "bnb_nf4" if quantization.get("load_in_4bit") else "bnb_int8"
    if method == "compressed-tensors":
        method = quantization.get("format")
    known: dict[str, Method] = {
        "gptq": "gptq",
        "awq": "awq",
        "gguf": "gguf",
        "pack-quantized": "rtn",
        "int-quantized": "w8a8",
        "float-quantized": "fp8",
        "nvfp4-pack-quantized": "nvfp4",
    }
    return known.get(method)
