"""The token rows that GPTQ and AWQ look at."""

from registry.contracts.base import Record


class CalibrationRecord(Record):
    digest: str
    """`sha256:<hex>` of the directory that holds `rows.json` (lists of token ids)."""
    token_digest: str
    """`sha256:<hex>` of the token ids alone, so that two sources with equal rows are seen to be equal."""
    source: str
    rows: int
    tokens: int
    """Tokens over all rows."""
    seed: int
    chat_template: bool
    rejected_rows: int
    """Rows left out because they were too short or stood in the evaluation suite."""
