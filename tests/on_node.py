"""What tests call on a node."""

import threading
from collections.abc import Callable


def echo(text: str, tell: Callable[[str], None]) -> str:
    """Say it, and give it back."""
    tell(f"saying {text}")
    threading.Event().wait(1.0)  # as long as it takes to be asked
    return text.upper()


def stay(text: str, tell: Callable[[str], None]) -> str:
    """Never come to an end."""
    tell("staying")
    threading.Event().wait()
    return text
