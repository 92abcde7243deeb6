"""All that is said of an artifact beside its baseline, as data."""

from registry.contracts import CharacterizationRecord, RetentionRecord, TokenAgreementRecord
from registry.contracts.base import Record


class Comparison(Record):
    """All that is said of an artifact beside its baseline."""

    retention: RetentionRecord
    characterization: CharacterizationRecord
    token_agreement: TokenAgreementRecord
