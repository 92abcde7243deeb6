"""How a model is really served, read from the engine rather than from what it was asked for."""

from dataclasses import dataclass

from registry.contracts.base import DType
from serving_checks.rank_facts import kernel_name, unequal_kernels
from serving_checks.server import RunningServer


@dataclass(frozen=True)
class EngineTruth:
    """None where the engine does not say."""

    dtype: DType | None
    """Of activations and unquantized weights."""
    tensor_parallel_size: int | None
    eager: bool | None
    prefix_caching: bool | None
    max_num_seqs: int | None
    kernel: str | None
    """What multiplies by weights, each kernel with its layers."""
    warnings: list[str]
    """Fallbacks and casts, and what else the log warns of."""


def engine_truth(server: RunningServer, wanted_dtype: DType) -> EngineTruth:
    """Ask the workers; kernel and warnings come from the log alone where they do not answer.

    Args:
        wanted_dtype: What the server was asked to serve in; another one is a warning.
    """
    engine, said = server.engine, server.facts
    warnings = list(said.warnings)
    try:
        ranks = engine.ranks(server.endpoint)
    except (OSError, ValueError) as error:
        warnings.append(f"how the model is computed was not told ({' '.join(str(error).split())[:200]})")
        return EngineTruth(None, None, engine.eager, None, None, said.kernel, warnings)
    first = ranks[0]
    if first.dtype != wanted_dtype:
        warnings.append(f"served in {first.dtype} although {wanted_dtype} was asked for")
    return EngineTruth(
        dtype=first.dtype,
        tensor_parallel_size=first.tensor_parallel_size,
        eager=first.eager,
        prefix_caching=first.prefix_caching,
        max_num_seqs=first.max_num_seqs,
        kernel=kernel_name(ranks) or said.kernel,
        warnings=[*warnings, *engine.fallbacks(ranks), *unequal_kernels(ranks)],
    )
