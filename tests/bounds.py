"""A program that has to end within limits of memory and processor time, whatever it is given."""

import resource
import subprocess
import sys
from pathlib import Path

MEMORY_BYTES = 768 << 20
"""Of address space, Python and its imports included."""
PROCESSOR_SECONDS = 60
"""Enough for a slow machine; what has no end is killed."""


def run_bounded(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python text in a process of its own; beyond a limit it ends by a signal or a MemoryError."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))

    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        preexec_fn=limit,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
