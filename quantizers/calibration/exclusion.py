"""Keeps what a model is going to be scored on out of what it is calibrated with."""

from collections.abc import Iterable

_SHORTEST_EXCLUDED = 24
"""Normalized characters; shorter evaluation texts ("yes", "7 + 5 =") stand in any text by chance."""


class Exclusion:
    """Evaluation texts that must not stand in calibration; case and white space do not count."""

    def __init__(self, texts: Iterable[str]) -> None:
        normalized = {_normalize(text) for text in texts}
        self._texts = [text for text in normalized if len(text) >= _SHORTEST_EXCLUDED]

    def found_in(self, text: str) -> bool:
        """Whether `text` holds one of the excluded texts."""
        normalized = _normalize(text)
        return any(excluded in normalized for excluded in self._texts)


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())
