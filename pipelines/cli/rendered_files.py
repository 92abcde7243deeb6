"""What a command rendered, written where it was asked for."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from registry.files import write_text_atomically


def write_rendered(files: Mapping[str, str], folder: Path) -> None:
    """Write each, name -> content, and tell so."""
    console = Console(stderr=True)
    for name, text in files.items():
        write_text_atomically(folder / name, text)
        console.print(f"written: {folder / name}", soft_wrap=True, markup=False, highlight=False)
