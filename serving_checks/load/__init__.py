"""Load tests: the config, and the client that runs them in a process of its own."""

from serving_checks.load.client import LoadClient, LoadResult
from serving_checks.load.config import LoadConfig

__all__ = ["LoadClient", "LoadConfig", "LoadResult"]
