"""vLLM's own load generator (vllm/benchmarks/serve.py, 0.32) behind one function.

It keeps requests in flight or sends them when they are due, and counts. Ours are the prompts, the arrivals of an open
loop (drawn here and handed over as a trace, so that it is known when each request was due and not only when the client
came to it), and the function that sends one request: vLLM's sends fields that other servers refuse, tells no reason
why, sends OPENAI_API_KEY to whoever is asked, and finds no token counts where they come with the last piece.
"""

import asyncio
import contextlib
import gc
import io
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from configs.reading.text import gathered
from registry.contracts.serving import Endpoint
from serving_checks.load.config import MixName
from serving_checks.load.prompts import Prompt, Tokenizer
from serving_checks.load.requests import Outcome, RequestRow
from serving_checks.transport.http_json import authorization, refusal
from serving_checks.transport.streaming import Stream, read_stream

_BACKEND = "quantbench"
_TIMED_OUT = "timed out"


class Load(NamedTuple):
    """One load test: a closed loop where `concurrency` is given, an open loop where the rate is."""

    mix: MixName
    concurrency: int | None
    requests_per_second: float | None

    @property
    def profile(self) -> Literal["concurrent", "poisson"]:
        """What it is called in records."""
        return "poisson" if self.concurrency is None else "concurrent"

    def __str__(self) -> str:
        if self.concurrency is None:
            return f"{self.mix} prompts, {self.requests_per_second:.3g} requests/s"
        return f"{self.mix} prompts, concurrency {self.concurrency}"


class Sent(NamedTuple):
    """What became of a load test's requests."""

    rows: list[RequestRow]
    """In the order of the prompts."""
    duration_seconds: float
    """From the first arrival until the last request was over."""


class VllmGenerator:
    """Sends prompts and tells when what came back.

    Importing vLLM takes half a minute on a slow core; constructing one does so.

    Args:
        tokenizer: Counts an answer's tokens where the server does not.
        request_timeout_seconds: When to give up on a request.
        fields: Added to each request, so that answers are greedy and as long as asked.
    """

    def __init__(self, tokenizer: Tokenizer, request_timeout_seconds: float, fields: Mapping[str, Any]) -> None:
        import_module("vllm.benchmarks.serve")  # here, because this is done while the server is waited for
        from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS

        self._tokenizer, self._fields = tokenizer, dict(fields)
        # As vLLM's own program does: a collection that looks at all that was imported would stop the clock of requests.
        gc.collect()
        gc.freeze()
        ASYNC_REQUEST_FUNCS[_BACKEND] = _sender(request_timeout_seconds)

    def send(
        self,
        endpoint: Endpoint,
        load: Load,
        prompts: Sequence[Prompt],
        output_tokens: int,
        *,
        seed: int = 0,
        point: int = 0,
    ) -> Sent:
        """Run one load test to its end; failures of requests are in the rows and raise nothing.

        Args:
            endpoint: The server.
            load: Closed or open loop.
            prompts: One a request.
            output_tokens: Length of each answer.
            seed: Of an open loop's arrivals.
            point: Goes into the rows.

        Raises:
            RequestError: The environment does not hold the server's key.
        """
        from vllm.benchmarks.serve import TaskType, benchmark

        due = arrivals(load.requests_per_second, len(prompts), seed) if load.requests_per_second else None
        # It prints its statistics; ours are made from the single requests.
        with contextlib.redirect_stdout(io.StringIO()):
            result = asyncio.run(
                benchmark(
                    task_type=TaskType.GENERATION,
                    endpoint_type=_BACKEND,
                    api_url=f"{endpoint.base_url}/v1/completions",
                    base_url=endpoint.base_url,
                    model_id=endpoint.served_model_name,
                    model_name=endpoint.served_model_name,
                    tokenizer=self._tokenizer,
                    input_requests=_requests(prompts, output_tokens, due),
                    logprobs=None,
                    request_rate=load.requests_per_second or float("inf"),
                    burstiness=1.0,
                    disable_tqdm=True,
                    num_warmups=0,
                    profile=False,
                    selected_percentile_metrics=[],
                    selected_percentiles=[],
                    ignore_eos=False,
                    goodput_config_dict={},
                    max_concurrency=load.concurrency,
                    lora_modules=None,
                    extra_headers=authorization(endpoint.api_key_variable)
                    | ({} if endpoint.keeps_connections else {"Connection": "close"}),
                    extra_body=self._fields,
                    ready_check_timeout_sec=0,
                    self_timed=due is not None,
                )
            )
        return Sent(rows_of(result, load, point, due), result["duration"])


def _requests(prompts: Sequence[Prompt], output_tokens: int, due: Sequence[float] | None) -> list[Any]:
    from vllm.benchmarks.datasets import SampleRequest

    return [
        SampleRequest(
            prompt=prompt.text,
            prompt_len=prompt.tokens,
            expected_output_len=output_tokens,
            timestamp=due[place] if due else None,
        )
        for place, prompt in enumerate(prompts)
    ]


def arrivals(requests_per_second: float, count: int, seed: int) -> list[float]:
    """Arrival times of a Poisson process, in seconds: the first at 0, the last such that the rate is met exactly.

    With the number of arrivals given, scaling leaves the process Poisson and takes a few percent of chance out of the
    rate, as vLLM's generator does.
    """
    times = np.cumsum(np.random.default_rng(seed).exponential(size=count))
    times -= times[0]
    if count > 1:
        times *= (count - 1) / requests_per_second / times[-1]
    return [float(moment) for moment in times]


def rows_of(result: dict[str, Any], load: Load, point: int, due: Sequence[float] | None) -> list[RequestRow]:
    """The generator's result, lists of one value a request, as our rows.

    Its queue times are taken from a request's turn in its own loop. In an open loop a request arrives when it was due.
    In a closed loop all are queued at once, which says nothing; there a request arrives when a place becomes free.
    """
    starts = np.array(result["start_times"])
    origin = float(np.min(starts - np.array(result["queue_times"])))
    starts = starts - origin
    ends = starts + np.array(result["latencies"])
    if due is None:
        due = _free_places(starts, ends, load.concurrency or len(starts))
    rows = []
    for place, error in enumerate(result["errors"]):
        outcome: Outcome = "ok" if not error else "timed_out" if error == _TIMED_OUT else "failed"
        rows.append(
            RequestRow(
                point=point,
                profile=load.profile,
                prompts=load.mix,
                request=place,
                arrival_seconds=due[place],
                start_seconds=float(starts[place]),
                ttft_seconds=result["ttfts"][place] if outcome == "ok" else None,
                itl_seconds=result["itls"][place] if outcome == "ok" else [],
                e2e_seconds=result["latencies"][place],
                prompt_tokens=result["input_lens"][place],
                output_tokens=result["output_lens"][place],
                outcome=outcome,
                error=error.strip().splitlines()[-1] if error else "",
            )
        )
    return rows


def _free_places(starts: Any, ends: Any, concurrency: int) -> list[float]:
    """When a place became free for each request of a closed loop, never after it was sent."""
    free = [0.0] * len(starts)
    ended = np.sort(ends)
    for turn, place in enumerate(np.argsort(starts, kind="stable")):
        if turn >= concurrency:
            free[int(place)] = min(float(ended[turn - concurrency]), float(starts[place]))
    return free


def _sender(timeout_seconds: float) -> Any:
    """The function that sends one request, as the generator calls it. Each failure has its duration and a reason."""
    import aiohttp
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

    async def send(request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        start = time.perf_counter()
        output = RequestFuncOutput(start_time=start, prompt_len=request_func_input.prompt_len)
        try:
            async with asyncio.timeout(timeout_seconds):
                stream = await _stream(request_func_input, session)
        except TimeoutError:
            output.error = _TIMED_OUT
        except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
            output.error = str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"
        else:
            if stream.arrivals and (stream.output_tokens or stream.text):
                _tell(output, stream, start)
            else:
                output.error = "no token came back"
        if not output.success:
            output.latency = time.perf_counter() - start
        return output

    return send


class _Refused(ValueError):
    """The server answered with another status than 200; the text is `refusal`'s."""


async def _stream(request: Any, session: Any) -> Stream:
    body = {
        "model": request.model_name,
        "prompt": request.prompt,
        "max_tokens": request.output_len,
        "stream": True,
        "stream_options": {"include_usage": True},
        **request.extra_body,
    }
    headers = request.extra_headers
    # A redirect is not followed: the key is for this address alone.
    async with session.post(request.api_url, json=body, headers=headers, allow_redirects=False) as response:
        if response.status != 200:
            told = (await gathered(response.content.iter_any())).decode(errors="replace")
            raise _Refused(refusal(response.status, response.reason, told, headers))
        return await read_stream(response.content)


def _tell(output: Any, stream: Stream, start: float) -> None:
    """Fill the generator's own record; it counts the tokens of the text where the server told no number."""
    output.success = True
    output.generated_text = stream.text
    output.ttft = stream.arrivals[0] - start
    output.itl = [after - before for before, after in pairwise(stream.arrivals)]
    output.latency = stream.arrivals[-1] - start
    output.output_tokens = stream.output_tokens or 0
    if stream.prompt_tokens is not None:
        output.prompt_len = stream.prompt_tokens
