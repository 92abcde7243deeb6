"""Serves one folder by llama.cpp until it is ended; runs in llama.cpp's environment.

    python -P -m serving_checks.engines.llamacpp_program FOLDER --model NAME --dtype DTYPE
        --port N --context TOKENS --slots N --threads N

A folder without a GGUF file is written as one first, into TMPDIR, by a process of its own: what it imports and holds in
memory is no part of the server.
"""

import argparse
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import gettempdir

CONVERSION = "quantizers.engines.gguf_conversion"
"""Module that writes a folder as a GGUF file."""
_CONTEXT_STEP = 256
"""Tokens; llama.cpp rounds a slot's context up to a multiple."""


def main() -> None:
    """Start the server; SIGTERM ends it with this process."""
    asked = _arguments()
    serve(_gguf_of(asked.folder, asked.dtype), asked)


def serve(file: Path, asked: argparse.Namespace) -> None:
    """Answer requests, for ever."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path = str(file)
    options.model_alias = {asked.model}
    options.hostnames = ["127.0.0.1"]
    options.port = asked.port
    options.n_parallel = asked.slots
    options.n_ctx = -(-asked.context // _CONTEXT_STEP) * _CONTEXT_STEP * asked.slots
    # Each slot has its own context: a request never waits for another one's memory.
    options.kv_unified = False
    options.cache_ram_mib = 0
    options.cache_idle_slots = False
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = asked.threads
    options.endpoint_metrics = True
    options.fit_params = False
    options.ui = False
    options.offline = True
    server = xllamacpp.Server(options)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    threading.Event().wait()


def _gguf_of(folder: Path, dtype: str) -> Path:
    found = sorted(folder.glob("*.gguf"))
    if found:
        return found[0]
    file = Path(gettempdir()) / "model.gguf"
    subprocess.run([sys.executable, "-P", "-m", CONVERSION, str(folder), str(file), dtype], check=True)
    return file


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True)
    for name in ("port", "context", "slots", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
