"""Are an imported artifact's embeddings the source's? No format here quantizes them, so they tell a model from one that
was trained a little further, which weights of 4 bits hide below their own error."""

from quantizers.inspection.agreement import agreement
from quantizers.inspection.dequantize import TensorFiles, Tensors
from registry.contracts import InspectionCheck

_ROUNDED = 2**-8
"""Rounding to bfloat16 gives less than half of it."""
_NAMES = ("model.embed_tokens.weight", "lm_head.weight")


def check_embeddings(source: TensorFiles, artifact: Tensors) -> InspectionCheck:
    """The relative error of both embeddings, as far as both folders hold them, is that of rounding."""
    errors = {
        name: agreement(source.read(name).float(), artifact.read(name).float())[1]
        for name in _NAMES
        if name in source and name in artifact
    }
    bad = [name for name, error in errors.items() if error > _ROUNDED]
    detail = "relative error " + ", ".join(f"{error:.2g} ({name})" for name, error in errors.items())
    if bad:
        detail += (
            f"; rounding gives {_ROUNDED:.2g} at most: it was made of another model than the recipe's source, or of one"
            " that was trained further; name that one as the source"
        )
    return InspectionCheck(name="embeddings", passed=not bad, detail=detail)
