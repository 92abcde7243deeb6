"""What Envoy streams of its traffic, put together again: its external processor in observability mode.

Envoy opens a gRPC stream for each request and sends what passes: headers and pieces of both bodies, as they come. It
waits for no answer. Messages are those of `envoy.service.ext_proc.v3` (external_processor.proto) as far as they are
read here, by the same names and field numbers; protobuf passes over all others.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from time import perf_counter
from typing import Any

from configs.reading.json_text import parse_json
from serving_checks.gateway.asked import CHAT, COMPLETIONS, PASSED_ON, REQUEST_ID, Asked
from serving_checks.gateway.observed import Arm, Observed
from serving_checks.gateway.upstream import KEPT_BYTES, Answered

ARM_ATTRIBUTE = "xds.cluster_name"
"""Envoy's name for what was asked: a cluster called `champion` or `candidate`."""
HEADERS_OBSERVED = (":method", ":path", ":status", "content-encoding", "x-request-id", *PASSED_ON)
"""All that Envoy needs to send of headers."""
MOST_STREAMS = 1024
"""Requests that are observed at once; Envoy's clients lose nothing when there are more, only pairs are lost."""
_FILTER = "envoy.filters.http.ext_proc"
_METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_ENDING_SECONDS = 2.0
_FRAMING_BYTES = 1 << 20
"""Of a message, beside the piece of a body in it."""


class Passing:
    """One request and its answer, as they pass.

    Args:
        most_bytes: Of the request's body; what is longer is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._asked: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._request, self._response = bytearray(), bytearray()
        self._arm = ""
        self._sent_at = self._first_byte_at = self._ended_at = 0.0
        self._request_is_whole = self._response_is_whole = False
        self._too_long = False

    @property
    def is_whole(self) -> bool:
        """Whether both have come to their end."""
        return self._request_is_whole and self._response_is_whole

    @property
    def held_bytes(self) -> int:
        """Of both bodies."""
        return len(self._request) + len(self._response)

    def take(self, message: Any) -> None:
        """A ProcessingRequest."""
        now = perf_counter()
        kind = message.WhichOneof("request")
        if kind == "request_headers":
            self._asked = _headers(message.request_headers)
            self._request_is_whole = message.request_headers.end_of_stream
            self._sent_at = now
        elif kind == "request_body":
            self._keep(self._request, message.request_body.body, self._most_bytes)
            self._request_is_whole = message.request_body.end_of_stream
            self._sent_at = now
        elif kind == "response_headers":
            self._told = _headers(message.response_headers)
            self._arm = message.attributes[_FILTER].fields[ARM_ATTRIBUTE].string_value
            self._response_is_whole = message.response_headers.end_of_stream
            self._first_byte_at = self._ended_at = now
        elif kind == "response_body":
            if not self._response:
                self._first_byte_at = now
            self._keep(self._response, message.response_body.body, KEPT_BYTES)
            self._response_is_whole = message.response_body.end_of_stream
            self._ended_at = now

    def _keep(self, parts: bytearray, part: bytes, most_bytes: int) -> None:
        self._too_long = self._too_long or len(parts) + len(part) > most_bytes
        if self._too_long:
            self._request.clear()
            self._response.clear()
        else:
            parts += part

    @property
    def makes_a_pair(self) -> bool:
        """Whether the answer is one that can be compared."""
        asked, told = self._asked, self._told
        return (
            not self._too_long
            and asked.get(":method") == "POST"
            and asked.get(":path", "").partition("?")[0] in (COMPLETIONS, CHAT)
            and told.get(":status") == "200"
            and told.get("content-encoding", "identity") == "identity"
            and self._arm in ("champion", "candidate")
        )

    def observed(self, versions: Mapping[Arm, str]) -> Observed:
        """As the gateway tells its observer. Raises ValueError where the body is no request."""
        body = bytes(self._request)
        fields = parse_json(body)
        if not isinstance(fields, dict):
            raise ValueError("the request's body is no JSON object")
        told = self._asked.get("x-request-id", "")
        request_id = told if REQUEST_ID.fullmatch(told) else uuid.uuid4().hex
        headers = {name: self._asked[name] for name in PASSED_ON if name in self._asked}
        headers |= {"x-request-id": request_id, "accept-encoding": "identity"}
        asked = Asked(request_id, self._asked[":path"].partition("?")[0], headers, body, fields)
        content_type = self._told.get("content-type", "")
        times = (self._sent_at, self._first_byte_at, self._ended_at)
        by: Arm = "champion" if self._arm == "champion" else "candidate"
        return Observed(asked, Answered(200, content_type, bytes(self._response), *times), by, versions[by])


class ExternalProcessor:
    """Answers Envoy's streams with nothing, and hands on what was answered whole.

    Args:
        offer: Gets each request that was answered; must not wait.
        versions: What champion and candidate are.
        most_bytes: Of one request's body.
        most_held_bytes: Of all that is under way; what goes beyond is given up and counted.
    """

    def __init__(
        self, offer: Callable[[Observed], None], versions: Mapping[Arm, str], most_bytes: int, most_held_bytes: int
    ) -> None:
        self._offer, self._versions = offer, versions
        self._most_bytes, self._most_held_bytes = most_bytes, most_held_bytes
        self.held_bytes = 0
        """Of what is under way."""
        self.seen = self.given_up = 0

    async def process(self, messages: AsyncIterator[Any], _: object) -> AsyncIterator[bytes]:
        """One stream: of one request, from its headers to its answer's end."""
        passing, held = Passing(self._most_bytes), 0
        try:
            async for message in messages:
                passing.take(message)
                self.held_bytes += passing.held_bytes - held
                held = passing.held_bytes
                if passing.is_whole:
                    self._passed(passing)
                    break
                if self.held_bytes > self._most_held_bytes:
                    self.given_up += 1
                    break
        finally:
            self.held_bytes -= held
        # The end of the stream lets Envoy forget it: it would hold it for its `deferred_close_timeout`.
        return
        yield b""

    def _passed(self, passing: Passing) -> None:
        self.seen += 1
        if not passing.makes_a_pair:
            return
        try:
            observed = passing.observed(self._versions)
        except ValueError:
            self.given_up += 1
            return
        self._offer(observed)


@asynccontextmanager
async def processing(processor: ExternalProcessor, port: int, most_bytes: int) -> AsyncIterator[None]:
    """The processor answers on loopback for the length of the block.

    Args:
        most_bytes: Of one message.

    Raises:
        OSError: The port is taken.
    """
    import grpc.aio  # type: ignore[import-untyped]

    handler = grpc.stream_stream_rpc_method_handler(
        processor.process, request_deserializer=processing_request_type().FromString, response_serializer=bytes
    )
    server = grpc.aio.server(
        maximum_concurrent_rpcs=MOST_STREAMS,
        options=[
            ("grpc.max_receive_message_length", most_bytes + _FRAMING_BYTES),
            # Two that share a port would each hear of a part of the traffic.
            ("grpc.so_reuseport", 0),
        ],
    )
    service, _, method = _METHOD.strip("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    try:
        server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise OSError(f"127.0.0.1:{port} cannot be listened on") from error
    await server.start()
    try:
        yield
    finally:
        await server.stop(_ENDING_SECONDS)


def _headers(message: Any) -> dict[str, str]:
    return {
        header.key.lower(): header.value or header.raw_value.decode("latin-1") for header in message.headers.headers
    }


@cache
def processing_request_type() -> Any:
    """The class of Envoy's message, made of what is read of it."""
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
        struct_pb2,
    )

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="quantbench/external_processor.proto", package="observed", syntax="proto3"
    )
    file.dependency.append("google/protobuf/struct.proto")

    def message(name: str, *fields: tuple[str, int, Any], repeated: str = "") -> Any:
        made = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = made.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if field == repeated:
                added.label = kinds.LABEL_REPEATED
            if isinstance(kind, str):
                added.type, added.type_name = kinds.TYPE_MESSAGE, kind
            else:
                added.type = kind
        return made

    message(
        "HeaderValue",
        ("key", 1, kinds.TYPE_STRING),
        ("value", 2, kinds.TYPE_STRING),
        ("raw_value", 3, kinds.TYPE_BYTES),
    )
    message("HeaderMap", ("headers", 1, ".observed.HeaderValue"), repeated="headers")
    message("HttpHeaders", ("headers", 1, ".observed.HeaderMap"), ("end_of_stream", 3, kinds.TYPE_BOOL))
    message("HttpBody", ("body", 1, kinds.TYPE_BYTES), ("end_of_stream", 2, kinds.TYPE_BOOL))
    whole = message(
        "ProcessingRequest",
        ("request_headers", 2, ".observed.HttpHeaders"),
        ("response_headers", 3, ".observed.HttpHeaders"),
        ("request_body", 4, ".observed.HttpBody"),
        ("response_body", 5, ".observed.HttpBody"),
        ("attributes", 9, ".observed.ProcessingRequest.AttributesEntry"),
        repeated="attributes",
    )
    whole.oneof_decl.add(name="request")
    for field in whole.field[:4]:
        field.oneof_index = 0
    entry = whole.nested_type.add(name="AttributesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL, type_name=".google.protobuf.Struct"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("observed.ProcessingRequest"))
