"""Locust as clients of a gateway: OpenAI's client, chats and completions, whole and streamed.

    quantbench env sync locust
    ~/.cache/quantbench/environments/locust-cpu-*/bin/locust -f benchmarks/locustfile.py --headless \\
      -H http://127.0.0.1:8080 --users 8 --spawn-rate 8 --run-time 30s

QUANTBENCH_MODEL names the model (demo), QUANTBENCH_API_KEY the key where the gateway asks for one, QUANTBENCH_PROMPTS a
file of prompts (the demo's), QUANTBENCH_TOKENS how long answers may be (32). A stream's first piece is a row of its
own.
"""

import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from locust import User, constant, task

MODEL = os.environ.get("QUANTBENCH_MODEL", "demo")
TOKENS = int(os.environ.get("QUANTBENCH_TOKENS", "32"))
PROMPTS = Path(os.environ.get("QUANTBENCH_PROMPTS") or Path(__file__).parents[1] / "configs/data/replay_demo.jsonl")
# A verdict is one on the traffic: a handful of questions, asked again and again, would decide it by themselves.
ASKED = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
# A line a request is not what anybody reads here.
for name in ("httpx", "httpx2"):
    logging.getLogger(name).setLevel(logging.WARNING)


class Client(User):
    """One user, who asks again as soon as there is an answer; one in four is streamed."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Each user has a connection and a name of its own."""
        key = os.environ.get("QUANTBENCH_API_KEY", "none")
        # A second try would hide a first that failed.
        self.asking = openai.OpenAI(base_url=f"{self.host}/v1", api_key=key, max_retries=0, timeout=120)
        self.name = f"user-{id(self):x}"

    @task(3)
    def chat(self) -> None:
        """A conversation of one question."""
        with self._timed("chat"):
            answer = self.asking.chat.completions.create(**self._conversation())
            if answer.choices[0].message.content is None:
                raise ValueError("an answer without a text")

    @task(1)
    def completion(self) -> None:
        """A text to be gone on with."""
        with self._timed("completion"):
            answer = self.asking.completions.create(**self._body())
            if not answer.choices:
                raise ValueError("an answer without a choice")

    @task(1)
    def stream(self) -> None:
        """A conversation, piece by piece."""
        start, reason, pieces = time.perf_counter(), None, 0
        with self._timed("chat, streamed"):
            # Without it nobody learns how many tokens a streamed answer had.
            told = {"stream_options": {"include_usage": True}}
            for piece in self.asking.chat.completions.create(**self._conversation(), stream=True, **told):
                pieces += 1
                if pieces == 1:
                    self._told("chat, first piece", start)
                reason = piece.choices[0].finish_reason if piece.choices else reason
            if reason is None:
                raise ValueError("the stream has no end")

    def _body(self) -> dict[str, Any]:
        line = random.choice(ASKED)  # noqa: S311
        tokens = min(line.get("max_tokens") or TOKENS, TOKENS)
        stop = {"stop": line["stop"]} if "stop" in line else {}
        known = {"model": MODEL, "max_tokens": tokens, "temperature": 0, "user": self.name}
        return {"prompt": line["prompt"], **known, **stop}

    def _conversation(self) -> dict[str, Any]:
        body = self._body()
        return {"messages": [{"role": "user", "content": body.pop("prompt")}], **body}

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except (openai.OpenAIError, ValueError) as error:
            self._told(name, start, error)
        else:
            self._told(name, start)

    def _told(self, name: str, start: float, error: Exception | None = None) -> None:
        fire: Callable[..., None] = self.environment.events.request.fire
        milliseconds = 1000 * (time.perf_counter() - start)
        fire(request_type="openai", name=name, response_time=milliseconds, response_length=0, exception=error)
