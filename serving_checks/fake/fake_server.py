"""A stand-in for an engine's OpenAI-compatible server: it computes nothing, keeps time, and fails to order.

    python -P -m serving_checks.fake.fake_server --port 8000 --scheduling static --max-num-seqs 4 --tpot-seconds 0.02

It answers /v1/completions and /v1/chat/completions (streamed or not) with the words " w0 w1 w2 ...", always as many as
were asked for, and tells its state under vLLM's names in /metrics. A word of a prompt, or a token id, is one token.
What schedules the answers is `fake_engine.py`; `--help` lists all that can be ordered.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from aiohttp import web

from serving_checks.fake.fake_engine import EngineSettings, FakeEngine, Scheduling

MODES = {
    "ok": "answers",
    "die": "ends at its start with an error in its log",
    "hang": "never becomes healthy",
    "die-half-way": "is killed by the first POST after --die-after others, amid all answers",
    "errors": "answers every completion with status 500",
    "empty": "answers without a token",
    "silent": "takes completions and never answers",
    "grandchild": "leaves a process of a session of its own behind",
    "heir": "forks, once it is asked for its health, a process that holds its socket and answers nobody",
}
_MODEL = "model"
_LOG_PROBABILITY = -1.0


class Form(NamedTuple):
    """How an answer looks."""

    chat: bool
    stream: bool
    logprobs: bool

    def message(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
        """An answer, or a piece of a streamed one."""
        kind = ("chat.completion" if self.chat else "text_completion") + (".chunk" if self.stream and self.chat else "")
        message = {"id": "cmpl-0", "object": kind, "created": 0, "model": _MODEL, "choices": choices}
        return message | ({"usage": usage} if usage else {})

    def choice(self, tokens: list[str], *, finished: bool) -> dict[str, Any]:
        """The choice that holds `tokens`."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if finished else None}
        text = "".join(tokens)
        if self.chat:
            choice["delta" if self.stream else "message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(tokens) if self.logprobs else None
        return choice

    def _logprobs(self, tokens: list[str]) -> dict[str, Any]:
        if self.chat:
            return {"content": [{"token": token, "logprob": _LOG_PROBABILITY, "top_logprobs": []} for token in tokens]}
        return {
            "tokens": tokens,
            "token_logprobs": [_LOG_PROBABILITY] * len(tokens),
            "top_logprobs": [{token: _LOG_PROBABILITY} for token in tokens],
        }


class Asked(NamedTuple):
    """What a body of either completions API asks for."""

    form: Form
    prompt: list[str]
    """One entry a token."""
    output_tokens: int
    usage_in_stream: bool
    echo: bool

    @classmethod
    def of(cls, body: dict[str, Any], *, chat: bool, output_tokens: int | None = None) -> "Asked":
        """Read `body`; `output_tokens` overrides what it asks for.

        Raises:
            ValueError: It is none of the forms that are known here. So are LookupError, TypeError and AttributeError.
        """
        prompt = " ".join(str(message["content"]) for message in body["messages"]) if chat else body["prompt"]
        if isinstance(prompt, str):
            tokens = prompt.split()
        elif isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
            tokens = [str(token) for token in prompt]
        else:
            raise ValueError("`prompt` has to be one string or one list of token ids")
        wanted = body.get("max_completion_tokens") or body.get("max_tokens", 16)
        if not isinstance(wanted, int) or wanted < 0:
            raise ValueError(f"`max_tokens` has to be a whole number, not {wanted!r}")
        return cls(
            # The completions API asks for a number of alternatives, zero among them; chat for the thing itself.
            form=Form(chat, bool(body.get("stream")), body.get("logprobs") not in ((None, False) if chat else (None,))),
            prompt=tokens,
            output_tokens=wanted if output_tokens is None else output_tokens,
            usage_in_stream=bool((body.get("stream_options") or {}).get("include_usage")),
            echo=bool(body.get("echo")),
        )

    @property
    def usage(self) -> dict[str, int]:
        """Both sides' tokens."""
        counts = {"prompt_tokens": len(self.prompt), "completion_tokens": self.output_tokens}
        return counts | {"total_tokens": sum(counts.values())}


@lru_cache(maxsize=1 << 14)
def _piece(form: Form, place: int, finished: bool) -> bytes:
    """The event that brings the word of one place: the same in every answer, and most of a stream's work."""
    return _event(form.message([form.choice([f" w{place}"], finished=finished)]))


def _event(message: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(message)}\n\n".encode()


class Refusals(NamedTuple):
    """Requests that are not answered."""

    max_model_len: int | None = None
    """Prompt and answer together, in tokens; None for no limit."""
    fields: tuple[str, ...] = ()
    """Answered 422, as by servers that do not know them."""
    key: str | None = None
    """Asked of every request but /health; None for none."""


class FakeServer:
    """The HTTP side.

    Args:
        settings: Of the engine.
        mode: One of MODES.
        die_after: POST requests that are answered before `die-half-way`.
        refusals: What is refused, whatever the mode.
    """

    def __init__(self, settings: EngineSettings, mode: str, die_after: int, refusals: "Refusals") -> None:
        self._engine, self._refusals = FakeEngine(settings), refusals
        self._mode, self._die_after = mode, die_after
        self._posts = 0
        self._heir = mode == "heir"

    def app(self) -> web.Application:
        """The application; its engine works as long as it is served."""
        app = web.Application(middlewares=[self._disturbed], client_max_size=1 << 26)
        app.cleanup_ctx.append(self._working)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.get("/metrics", self._metrics),
                web.post("/v1/completions", self._complete),
                web.post("/v1/chat/completions", self._complete),
                web.post("/reset_prefix_cache", self._reset),
                web.post("/collective_rpc", self._collective_rpc),
            ]
        )
        return app

    async def _working(self, _: web.Application) -> AsyncIterator[None]:
        work = asyncio.create_task(self._engine.run())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    @web.middleware
    async def _disturbed(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        key = self._refusals.key
        if key is not None and request.path != "/health" and request.headers.get("Authorization") != f"Bearer {key}":
            return _refusal("the key is missing or wrong", 401)
        if request.method == "POST":
            self._posts += 1
            if self._mode == "die-half-way" and self._posts > self._die_after:
                os._exit(9)
            if request.path.startswith("/v1/"):
                if self._mode == "errors":
                    return _refusal("ordered to fail", 500)
                if self._mode == "silent":
                    await asyncio.Event().wait()
        return await handler(request)

    async def _health(self, _: web.Request) -> web.Response:
        if self._heir:
            self._heir = False
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
        return web.Response(status=503 if self._mode == "hang" else 200)

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": _MODEL, "object": "model", "max_model_len": self._refusals.max_model_len}
        return web.json_response({"object": "list", "data": [model]})

    async def _reset(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _collective_rpc(self, _: web.Request) -> web.Response:
        """Two ranks, as `worker_probe.py` describes them; both are this process."""
        rank = {
            "pid": os.getpid(),
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 1,
            "tensor_bytes": {"weight": 900, "norm": 100},
            "kernels": {"nothing": 1},
            "dtype": "float32",
            "eager": True,
            "prefix_caching": False,
            "max_num_seqs": self._engine.settings.max_num_seqs,
        }
        return web.json_response({"results": [rank | {"rank": number} for number in (0, 1)]})

    async def _metrics(self, _: web.Request) -> web.Response:
        engine, counters = self._engine, self._engine.counters
        values = {
            "num_requests_running": engine.requests_running,
            "num_requests_waiting": engine.requests_waiting,
            "kv_cache_usage_perc": engine.kv_cache_usage,
            "prompt_tokens_total": counters.prompt_tokens,
            "generation_tokens_total": counters.generation_tokens,
        }
        label = f'engine="0",model_name="{_MODEL}"'
        lines = [f"vllm:{name}{{{label}}} {float(value)}" for name, value in values.items()]
        lines += [
            f'vllm:request_success_total{{{label},finished_reason="length"}} {float(counters.requests_succeeded)}',
            f'vllm:cache_config_info{{enable_prefix_caching="False",engine="0",'
            'kv_cache_memory_bytes="1048576",kv_cache_max_concurrency="2.0",'
            f'kv_cache_size_tokens="{engine.settings.kv_cache_tokens}"}} 1.0',
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            unknown = [field for field in self._refusals.fields if field in body]
            if unknown:
                return _refusal(f"unexpected fields in the request: {', '.join(unknown)}", 422)
            asked = Asked.of(
                body,
                chat=request.path == "/v1/chat/completions",
                output_tokens=0 if self._mode == "empty" else None,
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return _refusal(f"the body was not understood: {error!r}", 400)
        length = len(asked.prompt) + asked.output_tokens
        context = self._refusals.max_model_len
        if context is not None and length > context:
            return _refusal(f"{length} tokens do not fit the context of {context}", 400)
        if asked.form.stream:
            return await self._stream(request, asked)
        places = [place async for new in self._places(asked) for place in new]
        tokens = [*(asked.prompt if asked.echo else []), *(f" w{place}" for place in places)]
        return web.json_response(asked.form.message([asked.form.choice(tokens, finished=True)], asked.usage))

    def _places(self, asked: Asked) -> AsyncIterator[range]:
        return self._engine.generate(len(asked.prompt), asked.output_tokens)

    async def _stream(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for places in self._places(asked):
            pieces = [_piece(asked.form, place, place + 1 == asked.output_tokens) for place in places]
            if pieces:
                await response.write(b"".join(pieces))
        last = _event(asked.form.message([], asked.usage)) if asked.usage_in_stream else b""
        await response.write(last + b"data: [DONE]\n\n")
        return response


def _refusal(message: str, status: int) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


def _number_above(lowest: float, kind: Callable[[str], Any], *, included: bool = False) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = kind(text)
        if not (value > lowest or (included and value == lowest)):
            raise argparse.ArgumentTypeError(f"{text} is too small")
        return value

    return number


_COUNT, _SECONDS = _number_above(1, int, included=True), _number_above(0, float, included=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -P -m serving_checks.fake.fake_server",
        description="An OpenAI-compatible server that computes nothing, keeps time as ordered, and fails to order.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="modes:\n" + "\n".join(f"  {name:13} {what}" for name, what in MODES.items()),
    )
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--mode", choices=MODES, default="ok", metavar="MODE", help="see below (ok)")
    parser.add_argument(
        "--die-after", type=int, default=3, metavar="N", help="POST requests answered before `die-half-way` (3)"
    )
    parser.add_argument("--max-model-len", type=_COUNT, metavar="TOKENS", help="refuse longer requests (no limit)")
    parser.add_argument("--refuse-field", action="append", default=[], metavar="FIELD", help="answer 422 to it")
    parser.add_argument("--api-key-variable", metavar="NAME", help="ask for the key that this variable holds (none)")
    _add_engine_options(parser)
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    """An option for each field of EngineSettings."""
    defaults = EngineSettings()
    parser.add_argument(
        "--kv-cache-tokens", type=_COUNT, default=defaults.kv_cache_tokens, metavar="N", help="told in /metrics (4096)"
    )
    group = parser.add_argument_group("scheduling")
    group.add_argument(
        "--scheduling",
        choices=get_args(Scheduling),
        default=defaults.scheduling,
        help="continuous: a free place is taken at once; static: a batch runs to its longest end before the next "
        "begins; sequential: one at a time (continuous)",
    )
    group.add_argument(
        "--max-num-seqs", type=_COUNT, default=defaults.max_num_seqs, metavar="N", help="requests at work at once (256)"
    )
    group = parser.add_argument_group("times")
    group.add_argument(
        "--ttft-seconds",
        "--delay-seconds",
        type=_SECONDS,
        default=0.0,
        metavar="S",
        help="from being taken to work to the first token; holds up nobody else (0)",
    )
    group.add_argument(
        "--tpot-seconds", type=_SECONDS, default=0.0, metavar="S", help="of each decode step, whatever its batch (0)"
    )
    group.add_argument(
        "--prefill-tokens-per-second",
        type=_number_above(0, float),
        metavar="RATE",
        help="reading a prompt at this rate holds up all others (reading takes no time)",
    )
    group.add_argument(
        "--chunked-prefill",
        action="store_true",
        help="read new prompts piece by piece beside the others' decode steps instead",
    )
    group.add_argument(
        "--prefill-chunk-tokens",
        type=_COUNT,
        default=defaults.prefill_chunk_tokens,
        metavar="N",
        help="of each prompt in a step of --chunked-prefill (64)",
    )


def main(arguments: list[str]) -> int:
    """Serve until told to stop; the exit code: 1 in the mode `die`, 2 where the port cannot be had."""
    options = _parser().parse_args(arguments)
    if options.mode == "die":
        print(
            "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ValueError: ordered to die, out of memory", flush=True
        )
        return 1
    if options.mode == "grandchild":
        subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: S607
    settings = EngineSettings(**{name: getattr(options, name) for name in EngineSettings._fields})

    key = os.environ[options.api_key_variable] if options.api_key_variable else None
    refusals = Refusals(options.max_model_len, tuple(options.refuse_field), key)

    async def app() -> web.Application:
        return FakeServer(settings, options.mode, options.die_after, refusals).app()

    print(f"fake server, mode {options.mode}, port {options.port}", flush=True)
    try:
        # A client that goes away gives up its place, as with vLLM; nobody who is served holds up the end.
        web.run_app(
            app(),
            host="127.0.0.1",
            port=options.port,
            backlog=1024,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0,
            print=None,
        )
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
