"""What a token asks of the machine, read from the folder of the model that was served."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantizers.checkpoints.first_look import outline_of_folder
from quantizers.checkpoints.sources import read_config
from registry.contracts.base import DType
from registry.contracts.machine_limits import MatrixDType, TokenWork


def token_work(model_dir: Path, dtype: DType) -> TokenWork:
    """Read it from config.json.

    Args:
        dtype: What it was served in.

    Raises:
        RequestError: The model is none of those whose layers are known, or its config does not tell a size.
    """
    outline, config = outline_of_folder(model_dir), read_config(model_dir)
    return TokenWork(
        linear_parameters=sum(rows * columns for rows, columns in outline.linear_shapes.values()),
        head_parameters=int(config["vocab_size"]) * outline.hidden_size,
        kv_values=outline.kv_bytes_per_token(1),
        # Two products of a head's size, queries by keys and weights by values; a multiplication and its addition each.
        attention_flop=4 * outline.num_hidden_layers * outline.num_attention_heads * outline.head_dim,
        sliding_window=_window(config),
        multiplied_in=_multiplied_in(config.get("quantization_config") or {}, dtype),
    )


def _window(config: Mapping[str, Any]) -> int | None:
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return window if isinstance(window, int) and window > 0 else None


def _multiplied_in(quantization: Mapping[str, Any], dtype: DType) -> MatrixDType:
    """int8 where what comes in is quantized too: W8A8, GGUF's blocks, and bitsandbytes' LLM.int8 (of whose outliers no
    one knows)."""
    incoming = [group.get("input_activations") for group in (quantization.get("config_groups") or {}).values()]
    quantized = incoming and all(one and one.get("num_bits") == 8 and one.get("type") == "int" for one in incoming)
    in_blocks = quantization.get("quant_method") == "gguf"
    return "int8" if quantized or in_blocks or quantization.get("load_in_8bit") else dtype
