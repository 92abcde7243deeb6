"""The source model, as a safetensors checkpoint with its tokenizer."""

from registry.contracts.base import DType, Record


class CheckpointRecord(Record):
    digest: str
    """`sha256:<hex>` of the checkpoint directory's manifest."""
    size_bytes: int
    architecture: str
    """The class in config.json's `architectures`, such as `LlamaForCausalLM`."""
    parameters: int
    """Number of parameters, tied embeddings counted once."""
    dtype: DType
    """What the weights are stored as."""
    max_position_embeddings: int
    tie_word_embeddings: bool
    linear_shapes: dict[str, tuple[int, int]]
    """Every Linear that a method may quantize (lm_head left out): module name -> (out_features, in_features)."""
    num_attention_heads: int
    num_key_value_heads: int
    has_chat_template: bool
    text_opening: list[int] = []
    """Token ids that the model expects before every text: BOS, or none."""
    tokenizer_proof: str = ""
    """In words, what the tokenizer was compared with and how; empty for records from before it was."""
    origin: str
    """Where it came from, in words: a folder's name, a GGUF file with its digest, a hub id with its commit."""
    note: str | None = None
    """Shown wherever the model's numbers are shown (such as: rounded to 4 bits once before)."""
