"""Does llama.cpp compute what the checkpoint does? Its logits of the unrounded file beside transformers' of the source.

The converter passes over what llama.cpp has no word for, such as a router whose weights do not add up to one: the file
then is another model, and nothing but its answers shows it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import StageError
from registry.contracts.base import DType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_OFF = 0.1
"""Of a token's logits, the median of all tokens. Files in 16 bits have 0.004 to 0.009 beside float32 arithmetic and
0.01 to 0.02 beside the same 16 bits; a router that does not normalize gives 0.2 (tiny random models, SmolLM2)."""
_ERROR = 4
"""GGML_LOG_LEVEL_ERROR of ggml.h."""
_TEXT = (
    "The quick brown fox jumps over the lazy dog; 12 of 345 were seen. Paris is the capital of France, and water boils"
    " at 100 degrees. def add(a, b): return a + b. She opened the door, looked around and said: who is there?"
)


def prove_same_model(checkpoint_dir: Path, whole: Path, rounded: Path, dtype: DType, threads: int) -> None:
    """Refuse a file of which llama.cpp makes another model, or none.

    Args:
        checkpoint_dir: The source; its model is in memory before llama.cpp's is, and never beside it.
        whole: The file that the converter made of it.
        rounded: What was made of that one.
        dtype: Of the source's arithmetic.
        threads: Of both.

    Raises:
        StageError: llama.cpp cannot read a file, or answers otherwise than the source.
    """
    import numpy as np
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(checkpoint_dir)(_TEXT).input_ids
    wanted = _by_transformers(checkpoint_dir, ids, dtype)
    off = _off(_by_llama_cpp(whole, ids, threads), wanted)
    print(f"llama.cpp's logits are off by {off:.4f} of the source's", file=sys.stderr)
    if not off <= MOST_OFF:
        raise StageError(
            f"llama.cpp makes another model of this checkpoint: unrounded, its logits are off by {off:.2f} of the"
            f" source's (limit {MOST_OFF:g}), so something in config.json has no place in the file or in llama.cpp",
            remedy="leave gguf out; other methods take this model",
            blame="recipe",
        )
    answers = _by_llama_cpp(rounded, ids, threads)
    print(f"rounded, by {_off(answers, wanted):.4f}", file=sys.stderr)
    if not np.isfinite(answers).all():
        raise StageError(
            "llama.cpp answers with numbers that are not finite once the weights are rounded",
            remedy="take another `type`, or another method",
            blame="engine",
        )


def _off(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Distance of the logits [tokens, vocabulary] as a share of the wanted ones' norm, the median of all tokens: that
    of a single one may be large where a hair's breadth decides between two experts."""
    import numpy as np

    if found.shape != wanted.shape:
        return float("inf")
    return float(np.median(np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)))


def _by_transformers(checkpoint_dir: Path, ids: list[int], dtype: DType) -> NDArray[np.float32]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([ids])).logits[0].float().numpy()
    return logits


def _by_llama_cpp(path: Path, ids: list[int], threads: int) -> NDArray[np.float32]:
    import numpy as np
    from cyllama.llama import llama_cpp

    class Model(llama_cpp.LlamaModel):  # type: ignore[misc]
        """With the size of its vocabulary, which cyllama 0.2.18 asks a model for that has none."""

        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    said = []

    def hear(level: int, text: str) -> None:
        print(text, end="", file=sys.stderr)
        if level == _ERROR:
            said.append(text.strip())

    llama_cpp.set_log_callback(hear)
    options: Any = llama_cpp.LlamaContextParams()
    options.n_ctx = options.n_batch = options.n_ubatch = len(ids)
    options.n_threads = options.n_threads_batch = threads
    try:
        # The model lives as long as its context, which does not hold it.
        model = Model(str(path), llama_cpp.LlamaModelParams(), verbose=False)
        context = llama_cpp.LlamaContext(model, options, verbose=False)
        batch = llama_cpp.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
        batch.set_batch(ids, 0, True)
        context.decode(batch)
        return np.stack([np.array(context.get_logits_ith(place)) for place in range(len(ids))])
    except (ValueError, RuntimeError) as error:
        raise StageError(
            f"llama.cpp does not run the file that its own converter made: {said[0] if said else error}",
            remedy="leave gguf out; other methods take this model",
            blame="recipe",
        ) from error
