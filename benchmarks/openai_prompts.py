"""Asks a gateway, or any OpenAI-compatible server, the prompts of a file through OpenAI's own client.

    python benchmarks/openai_prompts.py configs/data/replay_demo.jsonl --model smollm2

at OPENAI_BASE_URL, or http://127.0.0.1:8080/v1. Each line is a request's body; what else it holds stays here. They are
asked in a random order, always the same: of a file sorted by kind, the first verdict would be one on the first kind.
Every second one is streamed; they come from twenty users in turn. Ends with 1 if any failed.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAIError

_USERS = 20
_FIELDS = ("prompt", "messages", "max_tokens", "stop", "temperature", "tools")


async def main(args: argparse.Namespace) -> int:
    """Ask; the exit code."""
    lines = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    bodies = [{name: line[name] for name in _FIELDS if name in line} for line in lines][: args.limit]
    # As greedy as pairs want it: two answers that are drawn differ even where the models do not.
    queue = [{"temperature": 0.0, "model": args.model, **body} for body in bodies] * args.repeat
    random.Random(0).shuffle(queue)  # noqa: S311
    asked, ended, found = len(queue), Counter[str](), iter(enumerate(queue))
    client = AsyncOpenAI(base_url=args.base_url, api_key=args.api_key, max_retries=0)

    async def ask_on() -> None:
        for number, body in found:
            try:
                await _ask(client, {**body, "user": f"user-{number % _USERS}"}, stream=number % 2 == 1)
                ended["answered"] += 1
            except OpenAIError as error:
                ended["failed"] += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)

    start = time.perf_counter()
    await asyncio.gather(*(ask_on() for _ in range(args.concurrency)))
    seconds = time.perf_counter() - start
    print(f"{ended['answered']} of {asked} prompts answered, {ended['failed']} failed, {seconds:.1f} s")
    return int(ended["failed"] > 0)


async def _ask(client: AsyncOpenAI, body: dict[str, Any], *, stream: bool) -> None:
    kind: Any = client.chat.completions if "messages" in body else client.completions
    answer = await kind.create(stream=stream, **body)
    if stream:
        async for _ in answer:
            pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--limit", type=int)
    sys.exit(asyncio.run(main(parser.parse_args())))
