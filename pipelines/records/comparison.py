"""All that is said of an artifact beside its baseline, as data."""

from registry.contracts import CharacterizationRecord, RetentionRecord, TokenAgreementRecord, VerbosityRecord
from registry.contracts.base import Record


class Comparison(Record):
    """All that is said of an artifact beside its baseline."""

    retention: RetentionRecord
    characterization: CharacterizationRecord
    token_agreement: TokenAgreementRecord
    verbosity: VerbosityRecord | None = None
    """None where the suite lets nothing be generated."""
