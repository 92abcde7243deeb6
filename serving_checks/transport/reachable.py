"""Whether anybody listens at an address, known in milliseconds: libraries that connect may try for minutes."""

import socket

_CONNECT_SECONDS = 10.0


def why_unreachable(address: str) -> str | None:
    """Why nobody listens at HOST:PORT; None where somebody does, and for an address that is no such pair."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None
