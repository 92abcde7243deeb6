"""What stays in 16 bits whatever the method, as compressed-tensors' `ignore` names it."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from configs.reading.json_text import read_json_object
from quantizers.checkpoints.model_gates import GATE_PATTERN, is_gate
from quantizers.precision.units import last_names
from registry.files import write_text_atomically

OUTPUT_LAYER = "lm_head"


def ignored(left_whole: Collection[str]) -> list[str]:
    """Patterns of the output layer, of all gates, and of the ends of other Linears' names.

    Args:
        left_whole: `CheckpointRecord.left_whole`.
    """
    return [OUTPUT_LAYER, GATE_PATTERN, *_ends(left_whole)]


def tell_servers(folder: Path, left_whole: Collection[str]) -> None:
    """Add the ends of names to what the library wrote into config.json, the Linears' names in transformers.

    vLLM has some of them elsewhere: Gemma 3n's `model.altup_projections.0` below `model.self_decoder`, where weights
    in 16 bits were then taken for integers without scales, and every answer was NaN.
    """
    if ends := _ends(left_whole):
        config = read_json_object(folder / "config.json")
        config["quantization_config"]["ignore"] += ends
        write_text_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _ends(left_whole: Collection[str]) -> list[str]:
    others = last_names(one for one in left_whole if not is_gate(one))
    return [rf"re:.*\.{re.escape(name)}$" for name in others]
