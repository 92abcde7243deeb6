"""The floor: round-to-nearest needs no data and no search, so every other method has to beat it."""

from collections.abc import Sequence

from pipelines.records.rows import Row
from pipelines.report.table import with_stderr
from quantizers.base import bits_of
from registry.contracts import ArtifactRecord, TokenAgreementRecord

FLOOR_METHOD = "rtn"


def floor_text(row: Row, rows: Sequence[Row]) -> str | None:
    """What stands between a row and the best round-to-nearest artifact of its bits; None where nothing does.

    Judged by how far the next tokens of the fixed texts diverge from the baseline's, which tells small losses apart
    where a suite's items do not. Both numbers come with one standard error over texts.
    """
    floors = [(one, *known) for one in rows if one.method == FLOOR_METHOD and (known := _known(one))]
    here = _known(row)
    if not floors or here is None:
        return None
    bits = bits_of(here[0])
    if row.method == FLOOR_METHOD:
        return f"what other methods of {bits} bits have to beat"
    equals = [(found, one.name) for one, artifact, found in floors if bits_of(artifact) == bits]
    best, name = min(equals, key=lambda equal: equal[0].kl_nats, default=(None, ""))
    if best is None or here[1].kl_nats < best.kl_nats:
        return None
    mine, floor = _told(here[1]), _told(best)
    return f"does not beat round-to-nearest at {bits} bits ({name}): KL {mine} against {floor} nats a token"


def _known(row: Row) -> tuple[ArtifactRecord, TokenAgreementRecord] | None:
    return (row.artifact, row.token_agreement) if row.artifact and row.token_agreement else None


def _told(found: TokenAgreementRecord) -> str:
    return with_stderr(found.kl_nats, found.kl_stderr, 4)
