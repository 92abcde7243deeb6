"""Servers forked from a process with vLLM imported, beside servers started in the plain way: start, speed, memory.

    .venv/bin/python -P benchmarks/fork_server.py CHECKPOINT [--dtype float32] [--rounds 2] [--ranks 1]

Run it alone on the machine. Both kinds are started in turns, so that a machine that grows slower slows both.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.load import LoadClient, LoadConfig
from serving_checks.load.config import Concurrent
from serving_checks.processes.supervisor import Supervised
from serving_checks.readings.memory import memory_record
from serving_checks.server import serve

LEVELS = [1, 8]
LOAD = LoadConfig(profiles=[Concurrent(kind="concurrent", levels=LEVELS)], requests=16)
THREADS = 1


class Reading(NamedTuple):
    start_seconds: float
    tokens_per_second: tuple[float, ...]
    peak_bytes: int


@contextmanager
def fork_server(folder: Path, config: VllmServerConfig) -> Iterator[Path]:
    """A fork server with its imports done."""
    address = folder / "socket"
    command = VllmEngine(config).fork_server("cpu", THREADS, address)
    if command is None:
        raise SystemExit("no fork server for these settings")
    start = time.monotonic()
    with Supervised(command.argv, env=command.env, log_file=folder / "fork-server.log") as child:
        while not address.exists():
            if child.wait(0.05) is not None:
                raise SystemExit(child.log_tail())
        # A command that does nothing is answered when the imports are done.
        with Supervised([*command.argv[:3], "this"], log_file=folder / "this.log", fork_server=address) as nothing:
            nothing.wait()
        print(f"imports, once: {time.monotonic() - start:.1f} s", flush=True)
        yield address


def measured(config: VllmServerConfig, model_dir: Path, dtype: str, address: Path | None) -> Reading:
    """One server's life."""
    with tempfile.TemporaryDirectory() as folder:
        request = ServerRequest(config, model_dir, dtype, "cpu", THREADS)  # type: ignore[arg-type]
        with (
            serve(request, Path(folder) / "server.log", fork_server=address) as server,
            LoadClient(LOAD, config, model_dir, Path(folder), address) as client,
        ):
            points = client.run(server.endpoint, Path(folder)).points
            peak = memory_record(server, model_dir, "cpu").peak_process_bytes or 0
            if server.forked != (address is not None):
                raise SystemExit("the fork server did not answer")
            return Reading(server.start_seconds, tuple(point.output_tokens_per_second for point in points), peak)


def main() -> None:
    """Print the medians of both and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=1, help="tensor-parallel size")
    arguments = parser.parse_args()
    config = VllmServerConfig(tensor_parallel_size=arguments.ranks)
    with tempfile.TemporaryDirectory() as folder, fork_server(Path(folder), config) as address:
        readings: dict[str, list[Reading]] = {"plain": [], "forked": []}
        for _ in range(arguments.rounds):
            for kind, where in (("plain", None), ("forked", address)):
                readings[kind].append(measured(config, arguments.checkpoint, arguments.dtype, where))
                print(f"{kind:7} {readings[kind][-1]}", flush=True)
    figures = {
        "start, s": lambda reading: reading.start_seconds,
        **{
            f"tokens/s at {concurrency}": lambda reading, place=place: reading.tokens_per_second[place]
            for place, concurrency in enumerate(LEVELS)
        },
        "peak memory, GB": lambda reading: reading.peak_bytes / 1e9,
    }
    print(f"{'median of ' + str(arguments.rounds):18} {'plain':>8} {'forked':>8} {'ratio':>7}")
    for name, figure in figures.items():
        plain, forked = (statistics.median(map(figure, readings[kind])) for kind in ("plain", "forked"))
        print(f"{name:18} {plain:8.2f} {forked:8.2f} {forked / plain:7.2f}")


if __name__ == "__main__":
    main()
