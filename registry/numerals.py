"""Numbers in sentences and tables: one minus sign, as wide as a digit, in records, on the page and in the terminal."""


def with_minus(text: str) -> str:
    """A number's text with a minus sign for its hyphen."""
    return text.replace("-", "−")


def signed(value: float) -> str:
    """To a tenth, with its sign; nothing has none."""
    text = f"{value:+.1f}" if abs(value) < 1000 else f"{value:+.3g}"
    return "0.0" if float(text) == 0 else with_minus(text)
