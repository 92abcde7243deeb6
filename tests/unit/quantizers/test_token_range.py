"""Calibration stays inside the model's embedding."""

import pytest

from configs.errors import RequestError
from quantizers.calibration.token_range import refuse_beyond_embedding


class _Tokenizer:
    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<extra_{token}>"


def test_a_row_with_an_id_beyond_the_embedding_is_refused_by_name() -> None:
    refuse_beyond_embedding([[], [0, 511]], _Tokenizer(), 512)
    with pytest.raises(RequestError, match=r"row 2 holds token 512 \('<extra_512>'\).* ends at 511"):
        refuse_beyond_embedding([[1, 2], [3, 512, 4]], _Tokenizer(), 512)
