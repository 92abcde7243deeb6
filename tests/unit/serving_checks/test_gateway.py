"""The gateway's way of a request: the champion's bytes and nobody else's, whatever the shadow or a client does."""

import asyncio
import contextlib
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from registry.contracts.serving import Endpoint
from serving_checks.gateway.app import Gateway, listening
from serving_checks.gateway.config import ListenConfig, MirrorConfig, PatienceConfig
from serving_checks.gateway.mirror import Mirror
from serving_checks.gateway.observed import Observed
from serving_checks.gateway.split import SplitConfig
from serving_checks.gateway.upstream import Upstream
from serving_checks.server import free_port
from serving_checks.transport.metrics import parse_metrics

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
ASKED = {"model": "demo", "prompt": "one two", "max_tokens": 4, "a field": {"of": ["others"]}}


class Behind:
    """A server behind the gateway, with what it was asked."""

    def __init__(self, handler: Handler, model: str = "demo") -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self._handler, self._model = handler, model

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[Endpoint]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self.seen.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
            return await self._handler(request)

        runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), shutdown_timeout=0.1)
        await runner.setup()
        port = free_port(None)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        url = f"http://127.0.0.1:{port}"
        try:
            yield Endpoint(base_url=url, served_model_name=self._model, model_path="", max_model_len=512)
        finally:
            await runner.cleanup()


class Lab:
    """A gateway in front of one server, and a client of it."""

    def __init__(self, gateway: Gateway, base: str, session: aiohttp.ClientSession) -> None:
        self.gateway, self.base, self.session = gateway, base, session

    async def ask(self, body: Any = ASKED, path: str = "/v1/completions", **options: Any) -> tuple[int, Any, bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body)
        async with self.session.post(self.base + path, data=data, **options) as answer:
            return answer.status, answer.headers, await answer.read()


@asynccontextmanager
async def lab(
    champion: Behind,
    observe: Callable[[Observed], object] = lambda observed: None,
    patience: PatienceConfig | None = None,
    **listen: Any,
) -> AsyncIterator[Lab]:
    config = ListenConfig(port=free_port(None), **listen)
    async with champion.answering() as endpoint, Upstream("1", endpoint, patience or PatienceConfig()) as upstream:
        gateway = Gateway("demo", config, upstream, observe)
        # As a client's: what comes back is looked at as it came.
        async with listening(gateway, config), aiohttp.ClientSession(auto_decompress=False) as session:
            yield Lab(gateway, f"http://127.0.0.1:{config.port}", session)


async def whole(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text='{"choices": [ {"text": "three"}]}', content_type="application/json")


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


def told(body: bytes) -> str:
    """The message of an error in OpenAI's shape."""
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["message"])


def test_the_answer_s_bytes_and_the_request_s_pass_as_they_are() -> None:
    packed = gzip.compress(b'{"choices": []}', mtime=0)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"content-encoding": "gzip", "content-type": "application/json", "x-of-the-engine": "yes"}
        return web.Response(body=packed, headers=headers)

    async def run() -> None:
        champion = Behind(answer)
        async with lab(champion) as one:
            sent = b'{ "model":"demo", "prompt" : "\xc3\xa4", "n": 1.50 }'
            headers = {"authorization": "Bearer mine", "cookie": "a", "x-request-id": "id-7", "x-model": "other"}
            status, back, body = await one.ask(sent, headers=headers)
        assert (status, body) == (200, packed)
        assert (back["content-encoding"], back["x-of-the-engine"], back["x-request-id"]) == ("gzip", "yes", "id-7")
        ((asked, came),) = champion.seen
        assert came == sent
        assert asked["x-request-id"] == "id-7"
        assert not {"authorization", "cookie", "x-model"} & asked.keys(), "neither keys nor what could choose a server"

    asyncio.run(run())


def test_a_model_of_another_name_is_asked_by_it() -> None:
    async def run() -> None:
        champion = Behind(whole, "store/objects/7")
        async with lab(champion) as one:
            assert (await one.ask())[0] == 200
        assert json.loads(champion.seen[0][1]) == ASKED | {"model": "store/objects/7"}

    asyncio.run(run())


def test_a_stream_passes_piece_by_piece() -> None:
    async def run() -> None:
        going_on = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"data: one\n\n")
            await going_on.wait()
            await response.write(b"data: [DONE]\n\n")
            return response

        async with (
            lab(Behind(answer)) as one,
            asyncio.timeout(20),
            one.session.post(f"{one.base}/v1/chat/completions", json=ASKED | {"stream": True}) as response,
        ):
            assert await response.content.readany() == b"data: one\n\n", "before the end is there"
            going_on.set()
            assert await response.content.read() == b"data: [DONE]\n\n"

    asyncio.run(run())


@pytest.mark.parametrize("pieces", [[b"data: [DONE]\n\n"], [b"da", b"ta: [DO", b"NE]\n\n"]])
def test_a_client_that_hangs_up_after_the_last_event_has_its_answer(pieces: list[bytes]) -> None:
    """As OpenAI's client does, before the body's end has come."""

    async def run() -> None:
        left = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for piece in (b'data: "data: [DONE]"\n\n', *pieces):
                await response.write(piece)
                await asyncio.sleep(0.01)
            await left.wait()
            return response

        seen: list[Observed] = []
        async with lab(Behind(answer), seen.append) as one, asyncio.timeout(20):
            for number in (1, 2):
                response = await one.session.post(f"{one.base}/v1/completions", json=ASKED | {"stream": True})
                said = b""
                # The first one leaves before the last event, which it takes for a word of the answer's.
                while (b"\ndata: [DONE]" not in said) if number == 2 else not said:
                    said += await response.content.readany()
                response.close()
                while one.gateway.champion.in_flight:
                    await asyncio.sleep(0.01)
            left.set()
            page = one.gateway.metrics.page()
        asked = [one for one in parse_metrics(page) if one.name == "quantbench_gateway_requests_total"]
        assert {one.labels["status"]: one.value for one in asked} == {"499": 1, "200": 1}
        assert [one.answered.body for one in seen] == [b'data: "data: [DONE]"\n\ndata: [DONE]\n\n']

    asyncio.run(run())


def test_a_client_that_hangs_up_ends_what_is_done_for_it() -> None:
    async def run() -> None:
        ended, begun = asyncio.Event(), asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(b"data: one\n\n")
                    begun.set()
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        seen: list[Observed] = []

        async def ask_shadow(observed: Observed) -> None:
            seen.append(observed)

        async with (
            Mirror(MirrorConfig(), ask_shadow) as mirror,
            lab(Behind(answer), mirror.offer) as one,
            asyncio.timeout(20),
        ):
            response = await one.session.post(f"{one.base}/v1/completions", json=ASKED)
            await begun.wait()
            response.close()
            await ended.wait()
            while one.gateway.champion.in_flight:
                await asyncio.sleep(0.01)
            await mirror.settled()
            assert not seen, "half an answer is no pair"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "no JSON"),
        (b"\xff\xfe{}", 400, "no JSON"),
        (b"[" * 5000, 400, "no JSON"),
        (b'{"model": "demo", "temperature": NaN}', 400, "no JSON"),
        (b"[1]", 400, "has to be a JSON object"),
        (b'{"model": "gpt-4"}', 404, "name demo"),
        (b'{"prompt": "no model"}', 404, "name demo"),
        (b'{"model": "demo", "prompt": "' + b"a" * (2 << 20) + b'"}', 413, "larger than 1 MiB"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_openai_s_shape(body: bytes, status: int, said: str) -> None:
    async def run() -> None:
        champion = Behind(whole)
        async with lab(champion, body_mib=1) as one:
            found, _, answer = await one.ask(body)
            assert (found, said in told(answer)) == (status, True)
            # Its length need not be told beforehand.
            async with one.session.post(f"{one.base}/v1/completions", data=in_pieces(body)) as response:
                assert response.status == status
            assert not champion.seen
            assert (await one.ask())[0] == 200, "it goes on"

    asyncio.run(run())


def test_other_paths_and_models() -> None:
    async def run() -> None:
        async with lab(Behind(whole)) as one:
            async with one.session.get(f"{one.base}/v1/models") as answer:
                assert [model["id"] for model in (await answer.json())["data"]] == ["demo"]
            async with one.session.get(f"{one.base}/health") as answer:
                assert answer.status == 200
            for method, path, status in (
                ("GET", "/v1/completions", 405),
                ("GET", "/v1/models/x", 404),
                ("PUT", "/", 404),
            ):
                async with one.session.request(method, one.base + path) as answer:
                    assert (answer.status, bool(told(await answer.read()))) == (status, True)

    asyncio.run(run())


def test_keys_are_asked_for_and_kept_as_hashes() -> None:
    async def run() -> None:
        async with lab(Behind(whole), api_keys=["sha256:" + hashlib.sha256(b"word").hexdigest()]) as one:
            for key, status in (
                ("Bearer word", 200),
                ("Bearer other", 401),
                ("word", 401),
                ("", 401),
                ("Basic word", 401),
            ):
                found, _, body = await one.ask(headers={"authorization": key})
                assert found == status, key
                assert "word" not in (told(body) if status == 401 else "")
            async with one.session.get(f"{one.base}/health") as answer:
                assert answer.status == 200, "a balancer has no key"

    asyncio.run(run())


def test_who_is_reached_from_elsewhere_asks_for_a_key() -> None:
    with pytest.raises(ValueError, match="is reached from other machines"):
        ListenConfig(host="0.0.0.0")  # noqa: S104
    assert ListenConfig(host="0.0.0.0", api_keys=["sha256:" + "0" * 64]).host == "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize("how", ["nobody there", "closes", "silent", "breaks off", "silent in a stream"])
def test_a_champion_that_fails_is_told_and_not_taken_for_an_answer(how: str) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        if how == "closes":
            request.transport.abort()
        elif how == "silent":
            await asyncio.sleep(30)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await asyncio.sleep(30 if how == "silent in a stream" else 0.05)
        request.transport.abort()
        return response

    async def run() -> None:
        patience = PatienceConfig(connect_seconds=0.2, silence_seconds=0.3)
        async with lab(Behind(answer), patience=patience) as one, asyncio.timeout(20):
            if how == "nobody there":
                gone = Endpoint(base_url="http://127.0.0.1:9", served_model_name="x", model_path="", max_model_len=1)
                async with Upstream("1", gone, patience) as upstream:
                    one.gateway.champion = upstream
                    status, _, body = await one.ask()
            elif how in ("breaks off", "silent in a stream"):
                async with one.session.post(f"{one.base}/v1/completions", json=ASKED) as response:
                    pieces = []
                    with pytest.raises(aiohttp.ClientError):
                        async for piece in response.content.iter_any():
                            pieces.append(piece)
                    events = b"".join(pieces).split(b"\n\n")
                    assert events[0] == b"data: one"
                    assert "broke off" in told(events[1].removeprefix(b"data: "))
                    assert b"[DONE]" not in b"".join(pieces)
                return
            else:
                status, _, body = await one.ask()
            assert status == (504 if how == "silent" else 502)
            assert "ask again later" in told(body)

    asyncio.run(run())


def test_the_shadow_sees_a_share_and_its_faults_are_numbers(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        seen: list[Observed] = []

        async def ask_shadow(observed: Observed) -> None:
            seen.append(observed)
            if len(seen) % 2:
                raise OSError("the shadow is dead")

        config = MirrorConfig(share=0.3, concurrency=2)
        async with Mirror(config, ask_shadow) as mirror, lab(Behind(whole), mirror.offer) as one:
            for number in range(200):
                assert (await one.ask(headers={"x-request-id": f"id {number}".replace(" ", "-")}))[0] == 200
            await mirror.settled()
            assert 40 < len(seen) < 80
            assert (mirror.failed, mirror.done) == ((len(seen) + 1) // 2, len(seen) // 2)
            chosen = {one.asked.id for one in seen}
            assert {f"id-{n}" for n in range(200) if mirror.takes(f"id-{n}")} == chosen, "by the id alone"
            assert seen[0].answered.body == b'{"choices": [ {"text": "three"}]}'

    asyncio.run(run())
    (told,) = [one.getMessage() for one in caplog.records if one.name == "serving_checks.gateway.mirror"]
    assert "OSError at test_gateway.py:" in told, "once, and where"
    assert "dead" not in told, "not in its words"


@pytest.mark.parametrize("bounds", [{"queue": 3}, {"queue_mib": 0.0005}])
def test_what_finds_no_room_is_dropped_and_counted(bounds: dict[str, Any]) -> None:
    async def run() -> None:
        hanging = asyncio.Event()

        async def ask_shadow(observed: Observed) -> None:
            await hanging.wait()

        config = MirrorConfig(concurrency=1, **bounds)
        async with Mirror(config, ask_shadow) as mirror, lab(Behind(whole), mirror.offer) as one, asyncio.timeout(20):
            for _ in range(20):
                assert (await one.ask())[0] == 200, "a shadow that hangs is noticed by nobody"
            assert 14 <= mirror.dropped <= 17
            hanging.set()
            await mirror.settled()
            assert mirror.done == 20 - mirror.dropped
            await one.ask()
            await mirror.settled()
            assert mirror.done == 21 - mirror.dropped, "there is room again"

    asyncio.run(run())


def test_a_champion_is_swapped_under_load_without_a_failed_or_mixed_up_request() -> None:
    def named(name: str) -> Handler:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(4):
                await response.write(name.encode())
                await asyncio.sleep(0.002)
            return response

        return answer

    async def run() -> None:
        first, second = Behind(named("a")), Behind(named("b"))
        async with (
            lab(first) as one,
            second.answering() as endpoint,
            Upstream("2", endpoint, PatienceConfig()) as upstream,
            asyncio.timeout(60),
        ):
            answers: list[bytes] = []

            async def client() -> None:
                while b"bbbb" not in answers[-20:]:
                    status, _, body = await one.ask(ASKED | {"stream": True})
                    assert status == 200
                    answers.append(body)

            clients = [asyncio.create_task(client()) for _ in range(8)]
            while len(answers) < 40:
                await asyncio.sleep(0.01)
            old = one.gateway.champion
            one.gateway.champion = upstream
            await old.drained()
            assert old.in_flight == 0
            asked = len(first.seen)
            await asyncio.gather(*clients)
            assert set(answers) == {b"aaaa", b"bbbb"}
            assert len(first.seen) == asked, "the old one is asked nothing more"

    asyncio.run(run())


def test_a_share_of_the_clients_is_answered_by_the_candidate_and_always_the_same() -> None:
    def named(name: str) -> Handler:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text=name)

        return answer

    async def run() -> None:
        async def keep(observed: Observed) -> None:
            seen.append(observed)

        seen: list[Observed] = []
        candidate = Behind(named("b"))
        async with (
            Mirror(MirrorConfig(), keep) as mirror,
            lab(Behind(named("a")), mirror.offer) as one,
            candidate.answering() as endpoint,
            Upstream("2", endpoint, PatienceConfig()) as upstream,
        ):
            one.gateway.candidate = upstream
            before: set[str] = set()
            for share in (0.1, 0.4, 1.0):
                one.gateway.split = SplitConfig(share=share, key_header="x-user")
                answers: dict[str, set[bytes]] = {}
                for number in range(300):
                    user = f"user {number % 100}"
                    sent = {"x-user": user} if number % 2 else {}
                    _, _, body = await one.ask(ASKED | {"user": user}, headers=sent)
                    answers.setdefault(user, set()).add(body)
                assert all(len(found) == 1 for found in answers.values()), "by header or field, a user has one model"
                inside = {user for user, found in answers.items() if found == {b"b"}}
                assert abs(len(inside) / 100 - share) < 0.15
                assert before <= inside, "who was in stays in"
                before = inside
            await mirror.settled()
            assert {observed.by for observed in seen} == {"champion", "candidate"}

    asyncio.run(run())


async def breaks_off(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"data: one\n\n")
    assert request.transport is not None
    request.transport.close()
    return response


async def fails(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"error": {"message": "no"}}, status=500)


@pytest.mark.parametrize(
    ("candidate", "told", "found"),
    [(None, 200, ("candidate", 502)), (fails, 500, ("candidate", 500)), (breaks_off, 200, ("candidate", 502))],
)
def test_what_a_candidate_fails_to_answer_is_seen_once(
    candidate: Handler | None, told: int, found: tuple[str, int]
) -> None:
    """Else a candidate that answers only what it can would have pairs of nothing else."""
    seen: list[Observed] = []

    async def run() -> None:
        behind = Behind(candidate or whole)
        async with lab(Behind(whole), seen.append) as one, behind.answering() as there:
            gone = there.model_copy(update={"base_url": "http://127.0.0.1:9"})
            async with Upstream("2", there if candidate else gone, PatienceConfig()) as upstream:
                one.gateway.candidate, one.gateway.trial = upstream, "now"
                one.gateway.split = SplitConfig(share=1.0)
                with contextlib.suppress(aiohttp.ClientError):
                    assert (await one.ask())[0] == told
        assert [(one.by, one.answered.status) for one in seen] == [found]
        assert (seen[0].version, seen[0].trial) == ("2", "now")

    asyncio.run(run())


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_of_a_candidate_s_that_hangs_up_is_no_fault_of_it(streams: bool) -> None:
    seen: list[Observed] = []

    async def slowly(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(200):
            await response.write(b"data: one\n\n" * 2000)
            await asyncio.sleep(0.001)
        return response

    async def run() -> None:
        behind = Behind(slowly)
        async with (
            lab(Behind(whole), seen.append) as one,
            behind.answering() as there,
            Upstream("2", there, PatienceConfig()) as upstream,
            asyncio.timeout(30),
        ):
            one.gateway.candidate, one.gateway.split = upstream, SplitConfig(share=1.0)
            response = await one.session.post(f"{one.base}/v1/completions", json=ASKED | {"stream": streams})
            await response.content.read(10)
            response.close()
            while upstream.in_flight:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            page = one.gateway.metrics.page()
        assert seen == []
        assert 'status="499",traffic="client",version="2"} 1.0' in page
        assert 'status="502"' not in page

    asyncio.run(run())


def test_the_verdict_is_served_as_it_was_made() -> None:
    async def run() -> None:
        key = "sha256:" + hashlib.sha256(b"mine").hexdigest()
        async with lab(Behind(whole), api_keys=[key]) as one:
            one.gateway.verdict = b'{"outcome":"pass"}'
            url = f"{one.base}/verdict"
            async with one.session.get(url) as answer:
                assert answer.status == 401
            async with one.session.get(url, headers={"authorization": "Bearer mine"}) as answer:
                assert (answer.status, answer.content_type) == (200, "application/json")
                assert await answer.read() == b'{"outcome":"pass"}'

    asyncio.run(run())


def test_a_candidate_that_fails_costs_no_client_an_answer() -> None:
    async def run() -> None:
        gone = Endpoint(base_url="http://127.0.0.1:9", served_model_name="x", model_path="", max_model_len=1)
        async with lab(Behind(whole)) as one, Upstream("2", gone, PatienceConfig()) as upstream:
            one.gateway.candidate, one.gateway.split = upstream, SplitConfig(share=1.0)
            assert (await one.ask())[0] == 200
            page = one.gateway.metrics.page()
        assert 'arm="candidate"' in page
        assert 'status="502",traffic="client",version="2"} 1.0' in page
        assert 'status="200",traffic="client",version="1"} 1.0' in page

    asyncio.run(run())
