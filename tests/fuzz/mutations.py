"""Messages with faults in them: bytes put in, left out, turned and repeated, where parsers look."""

from collections.abc import Sequence

from hypothesis import strategies as st

_TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b":",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"\xc3",
    b"-1",
    b"+5",
    b"0x10",
    b"99999999999999999999",
    b"chunked",
    b"0\r\n\r\n",
    b"5\r\nabcde\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"GET / HTTP/1.1\r\n",
    b"data: ",
    b"data: [DONE]\n\n",
    b"[DONE]",
    b'{"',
    b"[[[[",
    b"NaN",
    b"\\ud800",
    b"null",
    b'"choices": 1',
    b'"finish_reason": "stop"',
    b'"error": 1',
)


@st.composite
def broken(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with one to four faults."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 40)))
        how = draw(st.sampled_from(("put in", "put in", "leave out", "turn", "repeat", "cut")))
        if how == "put in":
            data = data[:at] + draw(st.sampled_from(_TOKENS) | st.binary(max_size=6)) + data[at:]
        elif how == "leave out":
            data = data[:at] + data[to:]
        elif how == "turn" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == "repeat":
            data = data[:to] + data[at:to] * draw(st.integers(1, 3)) + data[to:]
        elif how == "cut":
            data = data[:at]
    return data


@st.composite
def in_parts(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> list[bytes]:
    """A message as it may come over a socket: in one part, or in some."""
    data = draw(messages)
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=2)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
