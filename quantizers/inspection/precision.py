"""Does each module have the bits that the record says, and does config.json tell every reader so? Is it within size?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantizers.base import LinearShapes, own_bits
from quantizers.checkpoints.safetensors_header import TensorInfo, weight_files
from quantizers.inspection.dequantize import PACKED, is_left_alone
from quantizers.precision.config import AS_IT_IS, parse_budget
from quantizers.precision.rules import declared_bits
from quantizers.precision.units import unit_name
from registry.contracts import ArtifactRecord, InspectionCheck, PrecisionRecord
from registry.contracts.base import format_of

_WORD_BITS = 32


def check_precision(
    headers: dict[str, TensorInfo],
    linear_shapes: LinearShapes,
    artifact: ArtifactRecord,
    precision: PrecisionRecord,
    quantization_config: Mapping[str, Any],
) -> InspectionCheck:
    """Every Linear is stored in the bits that the record says, and config.json declares them by all names."""
    own = own_bits(artifact.method, artifact.parameters)
    wrong = []
    for module, shape in linear_shapes.items():
        expected, stored = precision.module_bits[module], stored_bits(headers, module, shape, artifact)
        if stored != expected:
            wrong.append(f"{module} is stored in {stored} bits, the record says {expected}")
            continue
        wrong += [
            f"config.json has {name} in {said} bits, the files hold {stored}"
            for name in dict.fromkeys((module, unit_name(module)))
            if (said := _declared(quantization_config, artifact, name, own)) != stored
        ]
    more = {module for module, bits in precision.module_bits.items() if bits != own}
    detail = f"{len(more)} of {len(linear_shapes)} Linears have more than {own} bits, as the record says"
    if wrong:
        detail = (
            f"{'; '.join(wrong[:3])} ({len(wrong)} in all): the engine did not do as it was told, or a server would"
            " read the modules wrongly. Leave mixed_precision out, or see that the versions are those of the lock file"
        )
    return InspectionCheck(name="precision", passed=not wrong, detail=detail)


def check_budget(bits_per_weight: float, artifact_dir: Path, precision: PrecisionRecord) -> InspectionCheck:
    """What the files take is within what the recipe allows."""
    budget = parse_budget(precision.budget)
    if budget.bits_per_weight is not None:
        passed, taken = bits_per_weight <= budget.bits_per_weight, f"{bits_per_weight:.4f} bits a weight"
    else:
        size = sum(path.stat().st_size for path in weight_files(artifact_dir))
        passed, taken = size <= precision.budget_bytes, f"{size / 1e6:.3f} MB"
    detail = f"{taken}, {precision.budget} are allowed"
    if not passed:
        detail += f"; {precision.expected_bytes:,} bytes were expected: lower the budget by the difference"
    return InspectionCheck(name="budget", passed=passed, detail=detail)


def stored_bits(
    headers: Mapping[str, TensorInfo], module: str, shape: tuple[int, int], artifact: ArtifactRecord
) -> int | None:
    """Bits of a module's weights by the shapes of its tensors; None where it is not stored as its format has it."""
    if is_left_alone(headers, module):
        return AS_IT_IS
    name, dtypes = PACKED[format_of(artifact.method)]
    packed = headers.get(f"{module}.{name}")
    if packed is None or packed.dtype not in dtypes:
        return None
    words = packed.shape[0] * packed.shape[1]
    return _WORD_BITS * words // (shape[0] * shape[1]) if packed.dtype == "I32" else 8


def _declared(quantization_config: Mapping[str, Any], artifact: ArtifactRecord, name: str, own: int) -> int:
    """What a reader takes from config.json for a module or for the matrix that it is part of."""
    match format_of(artifact.method):
        case "gptq":
            return declared_bits(quantization_config, name)
        case "awq":
            left_alone = quantization_config.get("modules_to_not_convert") or []
            return AS_IT_IS if any(unit_name(one) == name or one == name for one in left_alone) else own
        case _:
            return _by_groups(quantization_config, name)


def _by_groups(quantization_config: Mapping[str, Any], name: str) -> int:
    """Of compressed-tensors: what is ignored, then the group that names it, then the one of all Linears."""
    if any(name in (one, unit_name(one)) for one in quantization_config["ignore"]):
        return AS_IT_IS
    groups = quantization_config["config_groups"].values()
    found = next((group for group in groups if name in group["targets"]), None)
    found = found or next(group for group in groups if "Linear" in group["targets"])
    return int(found["weights"]["num_bits"])
