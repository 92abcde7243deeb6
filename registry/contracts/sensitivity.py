"""What a model loses when one module is rounded, and which bits each module was given for it."""

from registry.contracts.base import DType, Record


class UnitSensitivity(Record):
    """Linears that are served as one matrix, rounded to nearest while all others are as they were.

    Losses are KL divergences of the model's next token from the source's, in nats a token.
    """

    name: str
    modules: list[str]
    weights: int
    estimated_nats: dict[int, float]
    """Bits -> loss by one backward pass: half the squared change of the log-likelihood, to first order."""
    measured_nats: dict[int, float] = {}
    """Bits -> loss of the whole model on rows that the estimate did not see; of those that were tried."""


class SensitivityTrial(Record):
    """One whole-model measurement, kept as soon as it is made."""

    unit: str
    """`ALL_UNITS` where every Linear was rounded."""
    bits: int
    nats: float
    """KL divergence a token, as above."""


class SensitivityRecord(Record):
    checkpoint_digest: str
    calibration_digest: str
    group_size: int
    """Weights of a row that shared a scale while they were rounded; -1 is the whole row."""
    units: list[UnitSensitivity]
    uniform_nats: dict[int, float]
    """Bits -> loss with every Linear rounded."""
    estimate_tokens: int
    held_out_tokens: int
    """That trials were measured on."""
    dtype: DType
    """What the model computed in."""


class PrecisionRecord(Record):
    """The bits of every Linear of an artifact, and why."""

    budget: str
    """As the recipe says it: `4.6 bits` or `95 MB`."""
    budget_bytes: int
    """The same in bytes: of the Linears for bits, of all weights' files for a size."""
    expected_bytes: int
    """Of the same, as chosen."""
    module_bits: dict[str, int]
    """Every Linear -> its bits; 16 where it was left as it is."""
    chosen_by: dict[str, str] = {}
    """Unit with more bits than the method's own -> why, with numbers."""
    expected_nats: float
    """Sum of the units' losses, each rounded alone."""
    uniform_nats: float
    """The same with all in the method's own bits."""
    sensitivity_digest: str
    """Of the record that the losses are from."""


ALL_UNITS = "all"
