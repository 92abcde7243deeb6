"""Under which conditions a number was measured."""

import os


def load_average() -> float:
    """One-minute load average of the machine."""
    return os.getloadavg()[0]
