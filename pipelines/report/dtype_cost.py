"""What serving in another dtype costs, and what quantization costs, apart. Records in, lines out."""

from configs.names import BASELINE
from pipelines.records.rows import UNQUANTIZED, Row
from pipelines.report.judged import judged
from registry.contracts import RetentionRecord
from registry.contracts.base import Record


class DTypeCost(Record):
    """One category of one artifact; differences with their 95 % intervals, in the category's `scale`."""

    artifact: str
    dtype: str
    category: str
    scale: str
    whole: str
    """From the baseline as it is served; what the verdict judges."""
    of_dtype: str
    """Of the baseline in the artifact's dtype from the baseline."""
    of_quantization: str
    """Of the artifact from the baseline in its own dtype."""


def dtype_costs(rows: list[Row]) -> list[DTypeCost]:
    """A line for each category of each artifact that is served in another dtype than the baseline."""
    in_dtype = {
        row.serving.dtype: row.retention
        for row in rows
        if row.method == UNQUANTIZED and row.name != BASELINE and row.serving and row.retention
    }
    return [
        line
        for row in rows
        if row.serving and row.retention and row.quantization and row.serving.dtype in in_dtype
        for line in _lines(row.name, row.serving.dtype, row.retention, in_dtype[row.serving.dtype], row.quantization)
    ]


def _lines(
    artifact: str, dtype: str, whole: RetentionRecord, of_dtype: RetentionRecord, quantization: RetentionRecord
) -> list[DTypeCost]:
    dtypes, own = ({one.category: one.difference_text for one in judged(record)} for record in (of_dtype, quantization))
    return [
        DTypeCost(
            artifact=artifact,
            dtype=dtype,
            category=one.category,
            scale=one.scale,
            whole=one.difference_text,
            of_dtype=dtypes[one.category],
            of_quantization=own[one.category],
        )
        for one in judged(whole)
        if one.category in dtypes and one.category in own
    ]
