"""Numbers in sentences and tables: one minus sign, as wide as a digit, in records, on the page and in the terminal."""

import math


def with_minus(text: str) -> str:
    """A number's text with a minus sign for its hyphen."""
    return text.replace("-", "−")


def signed(value: float) -> str:
    """To a tenth, with its sign; nothing has none."""
    text = f"{value:+.1f}" if abs(value) < 1000 else f"{value:+.3g}"
    return "0.0" if float(text) == 0 else with_minus(text)


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many digits and all before the point, thousands separated: `0.0123`, `4.56`, `1,235`."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if not -6 <= power < 15:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - power)}f}"
