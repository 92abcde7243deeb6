"""Artifacts that were quantized elsewhere: taken in whole, refused where their config lies, and then inspected and
measured as ours are. Nothing is quantized here, and no weight is written anew."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field, field_validator

from configs.errors import RequestError, blaming, naming
from quantizers.base import LinearShapes, MethodConfig, QuantizeOutcome
from quantizers.checkpoints.checkpoint import download, take_files
from quantizers.checkpoints.first_look import told_folder
from quantizers.checkpoints.packed_tensors import check_numbers, check_quantized, check_rest
from quantizers.checkpoints.safetensors_header import read_headers
from quantizers.checkpoints.schemes import Scheme, scheme_of
from quantizers.checkpoints.sources import FolderSource, HubSource, read_config
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.methods.rules import packed_violations
from registry.contracts import QuantizedModule
from registry.contracts.base import Device, DType, format_of

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "elsewhere"
"""What an imported artifact's record names where ours name a library."""

_NO_MATTER = frozenset(
    {
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "max_position_embeddings",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Members of config.json that shape no logit, or are looked at elsewhere; every other one has to be the source's."""


class Config(MethodConfig):
    """Where the artifact comes from."""

    source: Annotated[FolderSource | HubSource, Field(discriminator="kind")]
    tokenizer: Literal["own", "source"] = "own"
    """`source` takes the base model's tokenizer, chat template and generation config in place of the artifact's: for
    those that differ in what no weight depends on, which the inspection would not pass."""

    @field_validator("source")
    @classmethod
    def _whole(cls, source: FolderSource | HubSource) -> FolderSource | HubSource:
        if source.part != "all":
            raise ValueError("an artifact that was made elsewhere is taken in whole; leave `part` out")
        return source

    @property
    def scheme(self) -> Scheme:
        """By its config.json, which is fetched where it is the hub's; RequestError where it is none that is read."""
        with blaming("source"):
            folder = _told(self.source)
            return scheme_of(folder, read_config(folder))

    @property
    def bits(self) -> int:
        """Bits of a weight's code."""
        return self.scheme.bits


class _Imported:
    """What all formats have in common."""

    config_type: ClassVar[type[MethodConfig]]
    needs_calibration: ClassVar[bool] = False
    engine: ClassVar[str] = "safetensors"
    environment: ClassVar[str] = "main"
    float16_step: ClassVar[str] = ""
    neighbours_matter: ClassVar[bool] = False

    def violations(
        self,
        config: MethodConfig,
        linear_shapes: LinearShapes,
        tensor_parallel: int,
        device: Device,
        quantize_dtype: DType,
    ) -> list[str]:
        """See `Quantizer.violations`: its own format, and what the format's kernels take."""
        scheme, kind = cast(Config, config).scheme, format_of(config.method)
        if scheme.format != kind:
            return [f"its config.json says {scheme.format}; set method to {scheme.format}_imported"]
        found = []
        if kind in ("gptq", "awq", "rtn"):
            found = packed_violations(linear_shapes, scheme.bits, scheme.group_size, tensor_parallel, device)
        if kind == "gptq" and not scheme.symmetric:
            found.append("vLLM serves symmetric GPTQ only, and its config.json says sym: false")
        return found

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """Take the files in, each of them looked at; see `Quantizer.quantize`.

        Raises:
            RequestError: It is not what its config.json says, or was made of another model than the job's.
        """
        config = cast(Config, job.config)
        with clock.part("download"):
            folder = _whole(config.source)
        with blaming("source"):
            scheme, _ = check_quantized(folder)
            with clock.part("copy"):
                take_files(folder, job.output_dir)
            with clock.part("check"), naming(job.output_dir, str(folder)):
                shapes = job.checkpoint.linear_shapes
                source, tied = read_headers(job.checkpoint_dir), job.checkpoint.tie_word_embeddings
                check_same_model(job.output_dir, job.checkpoint_dir)
                check_rest(job.output_dir, shapes, source, tied=tied)
                check_numbers(job.output_dir, scheme, shapes)
        if config.tokenizer == "source":
            carry_over(job.checkpoint_dir, job.output_dir)
        return QuantizeOutcome(
            modules=[QuantizedModule(name=name) for name in sorted(shapes)],
            versions={"safetensors": version("safetensors")},
            engine=ENGINE,
            found={"source": _origin(config.source, folder), **scheme.parameters},
        )


def imported_sources(methods: Mapping[str, MethodConfig]) -> dict[str, FolderSource | HubSource]:
    """Entry's name -> where it comes from, of the entries of a recipe that take artifacts in."""
    return {name: method.source for name, method in methods.items() if isinstance(method, Config)}


def check_import(config: MethodConfig) -> None:
    """Refuse what the stage would refuse, as far as the files on this disk tell (RequestError)."""
    if isinstance(config, Config) and isinstance(config.source, FolderSource):
        with blaming("source"):
            check_quantized(config.source.path)


class _GPTQConfig(Config):
    method: Literal["gptq_imported"] = "gptq_imported"


class _AWQConfig(Config):
    method: Literal["awq_imported"] = "awq_imported"


class _NF4Config(Config):
    method: Literal["bnb_nf4_imported"] = "bnb_nf4_imported"


class _Int8Config(Config):
    method: Literal["bnb_int8_imported"] = "bnb_int8_imported"


class _PackedConfig(Config):
    method: Literal["rtn_imported"] = "rtn_imported"


class _W8A8Config(Config):
    method: Literal["w8a8_imported"] = "w8a8_imported"


class ImportedGPTQ(_Imported):
    """By GPTQModel, AutoGPTQ, AutoRound or whoever writes their format."""

    config_type: ClassVar[type[MethodConfig]] = _GPTQConfig


class ImportedAWQ(_Imported):
    """By AutoAWQ or GPTQModel."""

    config_type: ClassVar[type[MethodConfig]] = _AWQConfig


class ImportedNF4(_Imported):
    """By transformers and bitsandbytes."""

    config_type: ClassVar[type[MethodConfig]] = _NF4Config


class ImportedInt8(_Imported):
    """By transformers and bitsandbytes."""

    config_type: ClassVar[type[MethodConfig]] = _Int8Config
    neighbours_matter: ClassVar[bool] = True


class ImportedPacked(_Imported):
    """By llm-compressor: packed integers of any method, `rtn`'s format."""

    config_type: ClassVar[type[MethodConfig]] = _PackedConfig


class ImportedW8A8(_Imported):
    """By llm-compressor: 8-bit integers, with activations rounded a token at a time."""

    config_type: ClassVar[type[MethodConfig]] = _W8A8Config


def check_same_model(artifact: Path, source: Path) -> None:
    """Refuse an artifact whose config.json makes another model of the weights than the source's (RequestError)."""
    from transformers import AutoConfig

    try:
        of_artifact, of_source = (AutoConfig.from_pretrained(one) for one in (artifact, source))
    except Exception as error:  # transformers raises whatever a config makes it stumble over.
        raise RequestError(
            f"transformers cannot read {artifact}/config.json: {type(error).__name__}: {error}",
            remedy="fetch it again, or take another checkpoint",
        ) from error
    own, wanted = of_artifact.to_dict(), of_source.to_dict()
    # What the class does not know, no engine reads.
    read = type(of_source)().to_dict().keys() - _NO_MATTER
    lines = [
        f"{key}: {own.get(key)!r:.60} there, {wanted.get(key)!r:.60} in the source"
        for key in sorted(read)
        if own.get(key) != wanted.get(key)
    ]
    if lines:
        raise RequestError(
            f"{artifact}/config.json describes another model than the recipe's source:"
            + "".join(f"\n  - {line}" for line in lines),
            remedy="name the model that it was made of as the recipe's source, or mend its config.json",
        )


def _told(source: FolderSource | HubSource) -> Path:
    """A folder with config.json at least."""
    return source.path if isinstance(source, FolderSource) else _told_once(source.id, source.revision)


def _origin(source: FolderSource | HubSource, folder: Path) -> str:
    """As a checkpoint's record tells it: records and cards leave this machine, and its paths do not."""
    return f"folder {folder.name}" if isinstance(source, FolderSource) else f"hub {source.id}@{folder.name}"


@functools.cache
def _told_once(model_id: str, revision: str) -> Path:
    return told_folder(model_id, revision)


def _whole(source: FolderSource | HubSource) -> Path:
    return source.path if isinstance(source, FolderSource) else download(source.id, source.revision)
