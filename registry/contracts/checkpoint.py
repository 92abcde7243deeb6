"""The source model, as a safetensors checkpoint with its tokenizer."""

from registry.contracts.base import DType, Record
from registry.shared_bytes import Sharing


class CheckpointRecord(Record):
    digest: str
    """`sha256:<hex>` of the checkpoint directory's manifest."""
    size_bytes: int
    architecture: str
    """The class in config.json's `architectures`, such as `LlamaForCausalLM`."""
    parameters: int
    """Number of parameters, tied embeddings counted once, `passed_over` not at all."""
    dtype: DType
    """What the weights are stored as."""
    max_position_embeddings: int
    """What config.json says."""
    positions: int
    """Tokens that the model reads at most: the same with the rope scaling that comes on top of it."""
    sliding_window: int | None = None
    """Tokens that some layers look back where others see the whole text; None where all layers are of one kind."""
    tie_word_embeddings: bool
    linear_shapes: dict[str, tuple[int, int]]
    """Every Linear that a method may quantize (lm_head left out): module name -> (out_features, in_features)."""
    left_whole: list[str] = []
    """Linears that no method quantizes: gates (quantizers.checkpoints.model_gates), and those outside of the decoder
    layers, lm_head left out."""
    passed_over: list[str] = []
    """Tensors that transformers leaves in the files, such as those of a draft head (`mtp.`), and no model here has: an
    artifact may lack them."""
    beyond_float16: dict[str, float]
    """Tensor name -> its largest magnitude, of those that exceed what float16 holds."""
    num_attention_heads: int
    num_key_value_heads: int
    """The fewest of a layer."""
    head_size: int
    """Features of one attention head; of the widest where layers differ."""
    embedding_rows: int
    """Token ids that the model has an embedding for; a tokenizer may know more or fewer."""
    has_bos_or_eos: bool
    """Whether the tokenizer has a token for a text's begin or end."""
    has_chat_template: bool
    text_opening: list[int] = []
    """Token ids that the model expects before every text: BOS, or none."""
    tokenizer_proof: str = ""
    """In words, what the tokenizer was compared with and how; empty for records from before it was."""
    origin: str
    """Where it came from, in words: a folder's name, a GGUF file with its digest, a hub id with its commit."""
    license: str | None = None
    """What the source's own card or header names, as it stands there; None where it names none."""
    weights: Sharing | None = None
    """Whether the weights share their bytes on disk with the source's; None where they were converted, and for records
    from before they could."""
    note: str | None = None
    """Shown wherever the model's numbers are shown (such as: rounded to 4 bits once before)."""
