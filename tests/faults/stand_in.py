"""A small server in vLLM's place: the served folder's own numbers, by transformers, behind the API that vLLM has.

What it answers comes from the bytes that it serves, so a changed byte changes a score. It starts in a second, since it
is forked from a process that has imported transformers; a real server takes eight. Streams, which the load tests ask
for, come from the fake server: words that keep time.

    python -P -m tests.faults.stand_in --port 8000 --model FOLDER --dtype float32 --max-model-len 256
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from serving_checks.fake.fake_engine import EngineSettings
from serving_checks.fake.fake_server import FakeServer, Refusals

_MOST_LOGPROBS = 20


class ServedFolder:
    """Log-probabilities of one model folder, a request at a time, so that the same question gets the same bits."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def logprobs(self, ids: list[int]) -> Any:
        """One row a position, in nats: what may follow on the ids up to there."""
        import torch

        with torch.inference_mode():
            logits = self._model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)

    def greedy(self, ids: list[int], most: int, stop: list[str]) -> tuple[list[int], list[float]]:
        """The likeliest continuation and its log-probabilities."""
        made: list[int] = []
        values: list[float] = []
        while len(made) < most:
            row = self.logprobs([*ids, *made])[-1]
            made.append(int(row.argmax()))
            values.append(float(row[made[-1]]))
            text = self.tokenizer.decode(made)
            if made[-1] == self.tokenizer.eos_token_id or any(one in text for one in stop):
                break
        return made, values


class StandIn(FakeServer):
    """The fake server with numbers in its plain answers."""

    def __init__(self, settings: EngineSettings, refusals: Refusals, folder: ServedFolder) -> None:
        super().__init__(settings, "ok", 0, refusals)
        self._folder = folder
        self._turn = asyncio.Lock()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("stream") or request.path != "/v1/completions":
            return await super()._complete(request)
        async with self._turn:
            choice = await asyncio.to_thread(self._choice, body)
        return web.json_response({"object": "text_completion", "model": "model", "choices": [choice]})

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        tokenizer, prompt = self._folder.tokenizer, body["prompt"]
        ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
        stop = body.get("stop") or []
        stop = [stop] if isinstance(stop, str) else list(stop)
        made, _ = self._folder.greedy(ids, body.get("max_tokens", 16), stop)
        text = tokenizer.decode(made, skip_special_tokens=True)
        for one in stop:
            text = text.split(one)[0]
        choice: dict[str, Any] = {"index": 0, "text": text or " ", "finish_reason": "length", "logprobs": None}
        rows = self._folder.logprobs([*ids, *made])
        if body.get("prompt_logprobs") is not None:
            choice["prompt_token_ids"] = ids
            choice["prompt_logprobs"] = [None] + [
                self._told(rows[place - 1], int(body["prompt_logprobs"]), [ids[place]]) for place in range(1, len(ids))
            ]
        if body.get("logprobs") is not None:
            choice["logprobs"] = self._logprobs(body, ids, made, rows)
        return choice

    def _told(self, row: Any, most: int, always: list[int]) -> dict[str, dict[str, float]]:
        likeliest = row.topk(min(most, _MOST_LOGPROBS)).indices.tolist()
        return {str(token): {"logprob": float(row[token])} for token in dict.fromkeys([*likeliest, *always])}

    def _logprobs(self, body: dict[str, Any], ids: list[int], made: list[int], rows: Any) -> dict[str, Any]:
        """Of the prompt too where it is echoed; the first token follows on nothing."""
        everything, start = [*ids, *made], 0 if body.get("echo") else len(ids)
        wanted = list(body.get("logprob_token_ids") or [])
        name = (lambda token: f"token_id:{token}") if body.get("return_tokens_as_token_ids") else self._spelling
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for place in range(start, len(everything)):
            if place == 0:
                values.append(None)
                tops.append(None)
                continue
            row, token = rows[place - 1], everything[place]
            values.append(float(row[token]))
            asked = dict.fromkeys([int(row.argmax()), token, *(wanted if place >= len(ids) else [])])
            tops.append({name(one): float(row[one]) for one in asked})
        return {
            "tokens": [name(token) for token in everything[start:]],
            "token_logprobs": values,
            "top_logprobs": tops,
        }

    def _spelling(self, token: int) -> str:
        return str(self._folder.tokenizer.convert_ids_to_tokens(token))


def main(arguments: list[str]) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -P -m tests.faults.stand_in")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    options = parser.parse_args(arguments)
    folder = ServedFolder(options.model, options.dtype)
    settings, refusals = EngineSettings(max_num_seqs=8), Refusals(max_model_len=options.max_model_len)

    async def app() -> web.Application:
        return StandIn(settings, refusals, folder).app()

    print(json.dumps({"stand-in": str(options.model), "port": options.port}), flush=True)
    web.run_app(
        app(),
        host="127.0.0.1",
        port=options.port,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=0,
        print=None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
