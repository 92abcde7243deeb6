"""Rendered for Envoy and run by it: clients' bytes, pairs by our recorder, and what a faulty recorder costs them."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.server import free_port, serve
from tests.envoy_lab import Behind, EnvoyLab, Running, envoy_binary
from tests.tiny_llama import make_tiny_llama
from tests.unit.pipelines.test_rendering import CONFIGS, rendered_file

pytestmark = pytest.mark.environment

JSON = {"content-type": "application/json"}
ASKED = {"model": "demo", "prompt": "one two", "max_tokens": 4}


@pytest.fixture(scope="module")
def envoy() -> Iterator[Path]:
    with envoy_binary() as binary:
        yield binary


def says(text: str) -> Behind:
    """A server that says so, in a stream where that is asked for."""
    told = {"choices": [{"text": text, "finish_reason": "stop"}]}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if json.loads(await request.read()).get("stream"):
            response = web.StreamResponse(headers={"content-type": "text/event-stream", "server": "the engine"})
            await response.prepare(request)
            for piece in (f"data: {json.dumps(told)}\n\n", "data: [DONE]\n\n"):
                await response.write(piece.encode())
                await asyncio.sleep(0.05)
            return response
        body = json.dumps(told, indent=1).encode()
        return web.Response(body=body, headers={"content-type": "application/json", "server": "the engine"})

    return Behind(answer)


@pytest.mark.parametrize("name", CONFIGS)
def test_envoy_takes_what_is_rendered(name: str, envoy: Path, tmp_path: Path) -> None:
    file = rendered_file(tmp_path, name, "envoy")
    command = [envoy, "--mode", "validate", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    mistyped = file.read_text().replace("observability_mode", "observabilty_mode")
    file.write_text(mistyped)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "observabilty_mode" in done.stderr
    assert done.returncode == 1


def test_pairs_of_what_passes_and_the_bytes_as_they_are(envoy: Path, tmp_path: Path) -> None:
    async def run() -> None:
        champion, candidate = says("three"), says("four")
        async with EnvoyLab(tmp_path, champion, candidate, "keep_prompts: true\n").running(envoy) as lab:
            sent = b'{ "model":"demo", "prompt" : "\xc3\xa4", "n": 1 }'
            headers = {"authorization": "Bearer mine", "cookie": "a=b", "x_request_id": "id-1"}
            status, told, body = await lab.ask(sent, **headers, content_type="application/json")
            assert (status, json.loads(body)["choices"][0]["text"]) == (200, "three")
            assert body.startswith(b'{\n "choices"'), "as the champion wrote it"
            assert (told["server"], told["x-request-id"]) == ("the engine", "id-1")
            assert not [name for name in told if name.startswith("x-envoy")]
            asked, came = champion.seen[0]
            assert (came, asked["x-request-id"], asked["accept-encoding"]) == (sent, "id-1", "identity")
            assert not {"authorization", "cookie"} & asked.keys()
            chat = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "stream": True}
            _, _, streamed = await lab.ask(json.dumps(chat), "/v1/chat/completions", x_request_id="id-2")
            assert streamed.startswith(b"data: ") and streamed.endswith(b"data: [DONE]\n\n")
            await lab.until(lambda: len(lab.pairs) == 2)
            first, second = lab.pairs
            assert (first["id"], first["source"], first["same"]) == ("id-1", "mirror", False)
            assert (first["champion"]["text"], first["candidate"]["text"]) == ("three", "four")
            assert second["id"] == "id-2"
            copied, copy = candidate.seen[0]
            assert json.loads(copy) == json.loads(sent) | {"model": "other"}
            assert copied["x-quantbench-shadow"] == "1"
            assert "authorization" not in copied
            assert len(candidate.seen) == 2, "the observer alone asks the candidate"

    asyncio.run(run())


def test_what_makes_no_pair_passes_all_the_same(envoy: Path, tmp_path: Path) -> None:
    packed = gzip.compress(b'{"choices": []}', mtime=0)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked = json.loads(await request.read() or b"{}")
        if asked.get("prompt") == "packed":
            return web.Response(body=packed, headers={"content-encoding": "gzip"})
        if asked.get("prompt") == "refused":
            return web.json_response({"error": {"message": "no"}}, status=400)
        if asked.get("prompt") == "endless":
            return web.Response(body=b"x" * (6 << 20))
        return web.json_response({"choices": [{"text": "three"}]})

    async def run() -> None:
        async with EnvoyLab(tmp_path, Behind(answer), says("four"), "").running(envoy) as lab:
            assert (await lab.ask(json.dumps(ASKED | {"prompt": "packed"})))[2] == packed
            assert (await lab.ask(json.dumps(ASKED | {"prompt": "refused"})))[0] == 400
            assert len((await lab.ask(json.dumps(ASKED | {"prompt": "endless"})))[2]) == 6 << 20
            async with lab.session.get(f"{lab.base}/v1/models") as listed:
                assert listed.status == 200
            status, _, told = await lab.ask(b"x" * ((8 << 20) + 1))
            assert (status, json.loads(told)["error"]["message"]) == (413, "Payload Too Large")
            async with lab.session.get(f"{lab.base}/admin") as other:
                assert (other.status, (await other.json())["error"]["type"]) == (404, "api_error")
            assert (await lab.ask(json.dumps(ASKED), x_request_id="last"))[0] == 200
            await lab.until(lambda: lab.pairs)
            assert [pair["id"] for pair in lab.pairs] == ["last"]

    asyncio.run(run())


def test_a_client_stays_with_its_model_and_shares_only_grow(envoy: Path, tmp_path: Path) -> None:
    async def answered_by_candidate(lab: EnvoyLab, header: str, clients: int) -> set[int]:
        found = set()
        for client in range(clients):
            for _ in range(2):
                _, _, body = await lab.ask(json.dumps(ASKED), **{header: f"client {client}"})
                if json.loads(body)["choices"][0]["text"] == "four":
                    found.add(client)
        return found

    async def run() -> None:
        shares = []
        for place, share in enumerate((0.2, 0.5)):
            folder = tmp_path / str(place)
            folder.mkdir()
            lab = EnvoyLab(folder, says("three"), says("four"), "split: {key_header: x-user}\n")
            overrides = ["--set", f"split.share={share}", "--set", "render.candidate.served_model=demo"]
            async with lab.running(envoy, *overrides):
                found = await answered_by_candidate(lab, "x_user", 100)
                assert await answered_by_candidate(lab, "x_user", 100) == found, "sticky"
                assert len(await answered_by_candidate(lab, "authorization", 20)) < 20
                await lab.until(lambda lab=lab: {pair["source"] for pair in lab.pairs} == {"mirror", "split"})
                assert {pair["champion"]["text_hash"] for pair in lab.pairs} == {lab.pairs[0]["champion"]["text_hash"]}
                shares.append(found)
        small, large = shares
        assert small < large
        assert 8 <= len(small) <= 35
        assert 35 <= len(large) <= 65

    asyncio.run(run())


def test_without_an_observer_nothing_is_lost_but_pairs(envoy: Path, tmp_path: Path) -> None:
    async def run() -> None:
        lab = EnvoyLab(tmp_path, says("three"), says("four"), "")
        async with lab.running(envoy, observed=False):
            for _ in range(20):
                assert (await lab.ask(json.dumps(ASKED)))[0] == 200
            await lab.observe()
            # Envoy leaves an observer that was not there alone for some seconds.
            for _ in range(300):
                assert (await lab.ask(json.dumps(ASKED)))[0] == 200
                if lab.pairs:
                    break
                await asyncio.sleep(0.1)
            assert lab.pairs
            assert lab.observer is not None
            lab.observer.kill()
            lab.observer.wait()
            for _ in range(20):
                assert (await lab.ask(json.dumps(ASKED)))[0] == 200

    asyncio.run(run())


def test_a_frozen_observer_costs_clients_nothing_and_envoy_no_memory_for_long(envoy: Path, tmp_path: Path) -> None:
    """A connection on which no ping is answered goes with all that waits on it, and the observer is left alone."""
    large = json.dumps(ASKED | {"prompt": "x" * 900_000}).encode()

    async def run() -> None:
        async with EnvoyLab(tmp_path, says("three"), says("four"), "").running(envoy) as lab:
            held: list[int] = []

            async def asked() -> None:
                answers = await asyncio.gather(*(lab.ask(large) for _ in range(8)))
                assert {status for status, _, _ in answers} == {200}
                held.append(await lab.held_bytes())

            async def dropped_what_waited() -> bool:
                await asked()
                return max(held) > 64 << 20 and held[-1] < max(held) // 4

            async def recorded_more() -> bool:
                assert (await lab.ask(json.dumps(ASKED)))[0] == 200
                return len(lab.pairs) > recorded

            await asked()
            await lab.until(lambda: lab.pairs)
            assert lab.observer is not None
            os.kill(lab.observer.pid, signal.SIGSTOP)
            await lab.until(dropped_what_waited)
            for _ in range(10):
                await asked()
            print(
                f"{len(held) * 8} bodies of 0.9 MB; Envoy held {max(held) >> 20} MiB at most, {held[-1] >> 20} at last"
            )
            os.kill(lab.observer.pid, signal.SIGCONT)
            recorded = len(lab.pairs)
            await lab.until(recorded_more)

    asyncio.run(run())


def test_a_candidate_that_hangs_costs_clients_nothing(envoy: Path, tmp_path: Path) -> None:
    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async def run() -> None:
        lab = EnvoyLab(tmp_path, says("three"), Behind(hang), "mirror: {queue: 4, concurrency: 1}\n")
        async with lab.running(envoy):
            for _ in range(100):
                assert (await lab.ask(json.dumps(ASKED)))[0] == 200
            await lab.until(lambda: "dropped" in lab.log.read_text())
            assert "100 answers seen, 0 pairs, 95 dropped" in lab.log.read_text()

    asyncio.run(run())


def test_no_header_of_a_client_s_changes_its_way(envoy: Path, tmp_path: Path) -> None:
    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response(status=503)

    async def run() -> None:
        champion = Behind(slow)
        async with EnvoyLab(tmp_path, champion, says("four"), "").running(envoy) as lab:
            wishes = {
                "x-envoy-upstream-rq-timeout-ms": "1",
                "x-envoy-retry-on": "5xx",
                "x-envoy-max-retries": "5",
                "x-quantbench-shadow": "1",
                "x-forwarded-for": "10.0.0.1",
            }
            assert (await lab.ask(json.dumps(ASKED), **wishes))[0] == 503
            ((seen, _),) = champion.seen
            assert not [name for name in seen if name.startswith(("x-envoy", "x-quantbench"))]

    asyncio.run(run())


def test_a_stream_passes_piece_by_piece(envoy: Path, tmp_path: Path) -> None:
    async def run() -> None:
        going_on = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"data: one\n\n")
            await going_on.wait()
            await response.write(b"data: [DONE]\n\n")
            return response

        async with EnvoyLab(tmp_path, Behind(answer), says("four"), "").running(envoy) as lab:
            url = f"{lab.base}/v1/chat/completions"
            async with asyncio.timeout(60), lab.session.post(url, json=ASKED | {"stream": True}) as response:
                assert await response.content.readany() == b"data: one\n\n", "before the end is there"
                going_on.set()
                assert await response.content.read() == b"data: [DONE]\n\n"

    asyncio.run(run())


def test_a_champion_that_breaks_off_or_is_gone_is_told(envoy: Path, tmp_path: Path) -> None:
    async def breaks_off(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def run() -> None:
        candidate = says("four")
        async with EnvoyLab(tmp_path, Behind(breaks_off), candidate, "").running(envoy) as lab:
            with pytest.raises(aiohttp.ClientError):
                await lab.ask(json.dumps(ASKED | {"stream": True}))
            await asyncio.sleep(0.5)
            assert not lab.pairs and not candidate.seen, "half an answer is no pair"
        gone = EnvoyLab(tmp_path, Behind(breaks_off), candidate, "")
        gone.champion = Running(free_port(None))
        async with gone.running(envoy, "--set", f"render.champion.port={gone.champion.port}") as lab:
            status, _, told = await lab.ask(json.dumps(ASKED))
            assert (status, json.loads(told)["error"]["type"]) == (503, "api_error")

    asyncio.run(run())


def test_the_recorder_ends_when_it_is_told_and_is_alone_at_its_port(envoy: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with EnvoyLab(tmp_path, says("three"), says("four"), "").running(envoy) as lab:
            assert (await lab.ask(json.dumps(ASKED)))[0] == 200
            await lab.until(lambda: lab.pairs)
            second = lab.quantbench("observe", "--workspace", str(lab.workspace))
            assert await asyncio.to_thread(second.wait, 120) == 2
            assert f"port {lab.observer_port} on 127.0.0.1 cannot be used" in lab.log.read_text()
            assert lab.observer is not None
            lab.observer.terminate()
            assert await asyncio.to_thread(lab.observer.wait, 120) == 0
            assert lab.log.read_text().endswith("ended\n")
            other = lab.quantbench("observe", "--workspace", str(lab.workspace), "--set", "verdict.alpha=0.2")
            assert await asyncio.to_thread(other.wait, 120) == 2
            assert "judged by another `verdict`" in lab.log.read_text()

    asyncio.run(run())


def test_a_client_that_hangs_up_makes_no_pair(envoy: Path, tmp_path: Path) -> None:
    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        await asyncio.sleep(60)
        return response

    async def run() -> None:
        candidate = says("four")
        async with EnvoyLab(tmp_path, Behind(slow), candidate, "").running(envoy) as lab:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await lab.ask(json.dumps(ASKED | {"stream": True}))
            timeout = aiohttp.ClientTimeout(total=10)
            async with lab.session.get(f"{lab.base}/health", timeout=timeout) as answer:
                assert answer.status == 200
            await asyncio.sleep(0.5)
            assert not lab.pairs and not candidate.seen

    asyncio.run(run())


@pytest.mark.engine
def test_two_vllm_servers_behind_envoy(envoy: Path, tmp_path: Path) -> None:
    """One model twice: what a client gets is what it gets without Envoy, and the pairs agree with themselves."""
    make_tiny_llama(tmp_path / "model")
    config = VllmServerConfig(max_model_len=128, max_num_seqs=4, kv_cache_gib=0.05)
    asked = {"model": "model", "prompt": "Paris is the capital of", "max_tokens": 8, "temperature": 0}

    async def run(direct: str, lab: EnvoyLab) -> None:
        names = ["--set", "model=model", "--set", "render.candidate.served_model=model"]
        async with lab.running(envoy, *names):
            for place, streamed in enumerate((False, True, False, True)):
                body = json.dumps(asked | {"stream": streamed})
                async with lab.session.post(f"{direct}/v1/completions", data=body, headers=JSON) as answer:
                    expected = await answer.text()
                status, _, through = await lab.ask(body, x_request_id=f"id-{place}", content_type=JSON["content-type"])
                assert (status, _said(through.decode())) == (200, _said(expected))
            await lab.until(lambda: len(lab.pairs) == 4)
            assert {(pair["same"], pair["champion"]["completion_tokens"]) for pair in lab.pairs} <= {
                (True, 8),
                (True, None),
            }

    with contextlib.ExitStack() as stack:
        endpoints = []
        for name in ("champion", "candidate"):
            request = ServerRequest(config, tmp_path / "model", "float32", "cpu", 1)
            endpoints.append(stack.enter_context(serve(request, tmp_path / f"{name}.log")).endpoint)
        champion, candidate = (Running(int(one.base_url.rpartition(":")[2])) for one in endpoints)
        asyncio.run(run(endpoints[0].base_url, EnvoyLab(tmp_path, champion, candidate, "")))


def _said(text: str) -> str:
    """The words of an answer; into how many events an engine cuts them is its own affair each time."""
    events = re.findall(r"^(?:data: )?(\{.*\})$", text, flags=re.MULTILINE)
    assert events
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)
