"""What llama.cpp reads of a GGUF file besides its Linears: are embeddings, vocabulary and sizes the source's?

llama.cpp never sees the config.json and the tokenizer that lie beside the file. Its own copies are held against them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from configs.errors import RequestError
from quantizers.checkpoints.gguf_tensors import GgufFile
from quantizers.checkpoints.gguf_vocabulary import read_vocabulary
from quantizers.checkpoints.gguf_weights import ROPE_FACTORS
from quantizers.checkpoints.tokenizer_proof import prove_gguf
from quantizers.inspection.agreement import agreement
from quantizers.inspection.dequantize import TensorFiles
from registry.contracts import InspectionCheck
from registry.contracts.base import DType

if TYPE_CHECKING:
    import torch

_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
_OTHER_SIZES = ("max_position_embeddings", "sliding_window", "vocab_size")
"""Members of a config that a short text does not show."""
_ALIKE = 1e-3
"""Of the largest logit: metadata are stored in float32, and arithmetic is the same otherwise."""
_DECOMPOSED = "e\N{COMBINING ACUTE ACCENT}"
_PROBE = "The quick brown fox jumps over the lazy dog; 12 of 345 were seen. Paris is the capital of France."


def check_rounded_embeddings(source: TensorFiles, artifact: GgufFile, least: float) -> InspectionCheck:
    """Input and output embeddings, which this format rounds too, have to follow the source's.

    Args:
        least: Correlation that sound weights have.
    """
    found = {
        name: (artifact.headers[name].dtype, *agreement(source.read(name).float(), artifact.read(name)))
        for name in _EMBEDDINGS
        if name in source and name in artifact
    }
    told = [f"{name} as {dtype}, relative error {error:.4f}" for name, (dtype, _, error) in found.items()]
    bad = [name for name, (_, correlation, _) in found.items() if correlation is not None and correlation < least]
    # An output embedding that is tied is no tensor of either file.
    missing = [name for name in _EMBEDDINGS if name in source and name not in artifact]
    if missing and not (missing == ["lm_head.weight"] and "model.embed_tokens.weight" in artifact):
        bad += missing
    detail = "; ".join(told)
    if bad:
        detail += f"; not the source's: {', '.join(bad)}. Throw the artifact away and quantize again"
    return InspectionCheck(name="embeddings", passed=not bad, detail=detail)


def check_vocabulary(path: Path) -> InspectionCheck:
    """The file's own tokenizer gives texts the ids that the tokenizer beside it gives them."""
    try:
        vocabulary = read_vocabulary(path)
        composes = _composes(path.parent)
        proved = prove_gguf(vocabulary, path.parent, path, composed=composes)
    except RequestError as error:
        return InspectionCheck(name="vocabulary", passed=False, detail=f"{error.what}; {error.remedy}")
    told = (
        "; characters that are not composed (Unicode's NFC) have others, llama.cpp leaves them so" if composes else ""
    )
    return InspectionCheck(name="vocabulary", passed=True, detail=proved.proof + told)


def _composes(folder: Path) -> bool:
    """Whether the tokenizer in `folder` composes characters before it cuts a text."""
    from transformers import AutoTokenizer

    backend = getattr(AutoTokenizer.from_pretrained(folder), "backend_tokenizer", None)
    normalizer = getattr(backend, "normalizer", None)
    return normalizer is not None and normalizer.normalize_str(_DECOMPOSED) == normalize("NFC", _DECOMPOSED)


def check_metadata(path: Path, checkpoint_dir: Path, dtype: DType) -> InspectionCheck:
    """The model that the metadata describe computes with the source's weights what the source does."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        source = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=getattr(torch, dtype))
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        scaled = _rope_is_scaled_as(source.config, path)
        if scaled:
            config.rope_parameters = source.config.rope_parameters
        with init_empty_weights(include_buffers=False):
            described = AutoModelForCausalLM.from_config(config)
        # The weights are the source's own, in memory once.
        described.load_state_dict(source.state_dict(), assign=True)
        described.tie_weights()
    except Exception as error:  # transformers raises whatever a config makes it stumble over.
        detail = f"transformers makes no model of its metadata: {type(error).__name__}: {error}"
        return InspectionCheck(name="metadata", passed=False, detail=detail)
    prompt = AutoTokenizer.from_pretrained(checkpoint_dir)(_PROBE, return_tensors="pt").input_ids
    wanted, found = (_logits(model, prompt) for model in (source, described))
    off = float((wanted - found).abs().max() / wanted.abs().max())
    others = [
        f"{name} is {getattr(config, name, None)} and not {getattr(source.config, name, None)}"
        for name in _OTHER_SIZES
        if getattr(config, name, None) != getattr(source.config, name, None)
    ]
    detail = f"with the source's weights its logits are off by {off:.2g} of the largest one"
    if scaled:
        detail += f"; {ROPE_FACTORS} is the source's rope scaling, which transformers reads from config.json alone"
    if others or not off <= _ALIKE:
        detail += "".join(f"; {line}" for line in others) + ". llama.cpp would compute another model: leave gguf out"
    return InspectionCheck(name="metadata", passed=not others and off <= _ALIKE, detail=detail)


def rope_factors(path: Path) -> torch.Tensor | None:
    """By what llama.cpp divides each frequency of the rotary embedding; None where the file has no scaling."""
    with GgufFile(path, ()) as file:
        return file.read_own(ROPE_FACTORS) if ROPE_FACTORS in file.unnamed else None


def _rope_is_scaled_as(config: Any, path: Path) -> bool:
    """Whether the file scales frequencies, and as `config` does."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factors, told = rope_factors(path), config.rope_parameters
    if factors is None or told.get("rope_type") not in ROPE_INIT_FUNCTIONS:
        return False
    scaled, _ = ROPE_INIT_FUNCTIONS[told["rope_type"]](config, "cpu")
    places = torch.arange(0, 2 * len(scaled), 2, dtype=torch.float32) / (2 * len(scaled))
    plain = 1 / told["rope_theta"] ** places
    return factors.shape == scaled.shape and bool(torch.allclose(plain / scaled, factors, rtol=_ALIKE))


def _logits(model: Any, prompt: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(prompt).logits
    return logits.float()
