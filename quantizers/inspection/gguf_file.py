"""What llama.cpp reads of a GGUF file besides its Linears: are embeddings, vocabulary and metadata the source's?

llama.cpp never sees the config.json and the tokenizer that lie beside the file. Its own copies are held against them.
That it computes the source's model was proved when the file was made (quantizers/engines/gguf_proof.py), by a short
text; here is what such a text does not show, or hardly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from configs.errors import RequestError
from quantizers.checkpoints import gguf_header
from quantizers.checkpoints.gguf_tensors import GgufFile
from quantizers.checkpoints.gguf_vocabulary import read_vocabulary
from quantizers.checkpoints.safetensors_header import read_headers
from quantizers.checkpoints.tokenizer_proof import prove_gguf
from quantizers.inspection.agreement import agreement
from quantizers.inspection.dequantize import TensorFiles
from registry.contracts import InspectionCheck
from registry.contracts.base import DType

if TYPE_CHECKING:
    import torch

ROPE_FACTORS = "rope_freqs.weight"
"""llama.cpp's tensor for Llama 3's rope scaling."""
_LONG_FACTORS = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
"""Its tensors for Phi 3's -> members of `rope_parameters`."""
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
_MEMBERS = {
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "num_experts_per_tok": "expert_used_count",
    "rope_theta": "rope.freq_base",
}
"""Members of a config, or of its `rope_parameters` -> the file's name for them."""
_NEEDED = ("max_position_embeddings", "sliding_window")
"""llama.cpp computes another model, or ends sooner, where the file leaves them out."""
_CLOSE = 1e-3
"""Numbers are stored in float32."""
_DECOMPOSED = "e\N{COMBINING ACUTE ACCENT}"


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


def read_as_source(path: Path, checkpoint_dir: Path, dtype: DType) -> tuple[Any, list[str]]:
    """The source's model with the weights of a file that was made of it, and what it has to make up.

    Returns:
        The model, and the names of its tensors that are not in the file, and of those in the file that are not its.
    """
    import torch
    import transformers
    from transformers import AutoConfig

    config, headers = AutoConfig.from_pretrained(checkpoint_dir), read_headers(checkpoint_dir)
    with GgufFile(path, headers) as file:
        # The converter drops dimensions of one.
        weights = {
            name: file.read(name).reshape(headers[name].shape).to(getattr(torch, dtype)) for name in file.headers
        }
        strangers = file.unnamed.keys() - {ROPE_FACTORS, *_LONG_FACTORS}
    model, loaded = getattr(transformers, config.architectures[0]).from_pretrained(
        None, config=config, state_dict=weights, dtype=getattr(torch, dtype), output_loading_info=True
    )
    return model, sorted({*loaded["missing_keys"], *strangers})


def check_metadata(path: Path, checkpoint_dir: Path) -> InspectionCheck:
    """What the file says of sizes, windows and positions has to be what the source's config says."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint_dir)
    kind = gguf_header.architecture(path)
    told = gguf_header.metadata(path, (f"{kind}.",), lists=False)
    rope = getattr(config, "rope_parameters", None) or {}
    asked = {name: rope.get(name) or getattr(config, name, None) or None for name in _MEMBERS}
    if not getattr(config, "use_sliding_window", True):
        asked["sliding_window"] = None
    found = {name: told.get(f"{kind}.{stored}") or None for name, stored in _MEMBERS.items()}
    compared = [name for name in _MEMBERS if name in _NEEDED or None not in (asked[name], found[name])]
    bad = [f"{name} is {found[name]} and not {asked[name]}" for name in compared if not _same(found[name], asked[name])]
    if not _rope_is_scaled_as(config, rope, told.get(f"{kind}.rope.scaling.factor"), path):
        bad.append(f"its rope scaling is not the source's, {rope}")
    detail = f"{kind}: {', '.join(compared)} and rope scaling are held against config.json"
    if bad:
        detail += f"; {'; '.join(bad)}. llama.cpp would compute another model: leave gguf out"
    return InspectionCheck(name="metadata", passed=not bad, detail=detail)


def _same(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) <= _CLOSE * abs(wanted)


def _rope_factors(path: Path) -> torch.Tensor | None:
    """By what llama.cpp divides each frequency of the rotary embedding; None where the file has no scaling."""
    with GgufFile(path, ()) as file:
        return file.read_own(ROPE_FACTORS) if ROPE_FACTORS in file.unnamed else None


def _rope_is_scaled_as(config: Any, rope: dict[str, Any], factor: float | None, path: Path) -> bool:
    """Whether the file stretches positions as the source's config does.

    Args:
        config: The source's.
        rope: Its `rope_parameters`; kinds of layers may have their own in it.
        factor: The file's, by which all frequencies are divided.
        path: The file, which may have factors for each frequency.
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factors = _rope_factors(path)
    every = [rope, *(own for own in rope.values() if isinstance(own, dict))]
    rope = next((own for own in every if own.get("rope_type", "default") != "default"), {})
    kind = rope.get("rope_type")
    if kind is None:
        return factors is None
    if kind == "longrope":
        with GgufFile(path, ()) as file:
            stored = {name: file.read_own(name).tolist() for name in _LONG_FACTORS if name in file.unnamed}
        return len(stored) == len(_LONG_FACTORS) and all(
            torch.allclose(torch.tensor(stored[name]), torch.tensor(rope[member]), rtol=_CLOSE)
            for name, member in _LONG_FACTORS.items()
        )
    if factors is None:
        return _same(factor, rope.get("factor"))
    if kind not in ROPE_INIT_FUNCTIONS:
        return False
    scaled, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    places = torch.arange(0, 2 * len(scaled), 2, dtype=torch.float32) / (2 * len(scaled))
    plain = 1 / rope["rope_theta"] ** places
    return factors.shape == scaled.shape and bool(torch.allclose(plain / scaled, factors, rtol=_CLOSE))
