"""HTTP as bytes, on both sides of a gateway: what no library would send."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, NamedTuple

from registry.contracts.serving import Endpoint

Step = bytes | float | Literal["close", "hang"]
"""Sent; waited, in seconds; the end."""


class Raw(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    """As it came, chunks and all."""
    ended: bool
    """The other side closed."""


def request(
    body: bytes, *headers: str, method: str = "POST", path: str = "/v1/completions", length: bool = True
) -> bytes:
    """Of HTTP/1.1, with these headers beside those that have to be."""
    told = [f"{method} {path} HTTP/1.1", "Host: here", *([f"Content-Length: {len(body)}"] if length else []), *headers]
    return ("\r\n".join(told) + "\r\n\r\n").encode("latin-1") + body


def chunked(body: bytes, size: int = 7) -> bytes:
    """A body in chunks."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Of a server that tells its length."""
    told = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(told) + "\r\n\r\n").encode("latin-1") + body


async def ask(port: int, *steps: Step, seconds: float = 10.0) -> Raw:
    """Send these, and read until the answer is whole, or the connection has ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got, ended = b"", False
    try:
        for step in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, bytes):
                writer.write(step)
        async with asyncio.timeout(seconds):
            while not ended and not _is_whole(got):
                part = await reader.read(1 << 16)
                got, ended = got + part, not part
    except ConnectionError:
        ended = True
    finally:
        writer.close()
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Raw(int(first.split()[1]) if got else 0, headers, body, ended)


def _is_whole(got: bytes) -> bool:
    head, found, body = got.partition(b"\r\n\r\n")
    told = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return bool(found) and (len(body) >= int(told[0]) if told else body.endswith(b"0\r\n\r\n"))


@asynccontextmanager
async def raw_server(*steps: Step) -> AsyncIterator[Endpoint]:
    """A server that answers each request with these steps, whatever it was asked."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.partition(b":")[2]))
                if not await _take(steps, writer, over):
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        yield Endpoint(base_url=url, served_model_name="demo", model_path="", max_model_len=512)
    finally:
        over.set()
        server.close()


async def _take(steps: Sequence[Step], writer: asyncio.StreamWriter, over: asyncio.Event) -> bool:
    """Whether the connection stays."""
    for step in steps:
        if step == "close":
            return False
        if step == "hang":
            await over.wait()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
    return True
