"""Which requests a line of a log holds. Each format is its writer's own:

- openai: a body of the chat or the completions API, or a line of a batch file with it as `body`
  (platform.openai.com/docs/api-reference/batch)
- litellm: StandardLoggingPayload of LiteLLM's proxy and callbacks (docs.litellm.ai/docs/proxy/logging_spec), or a line
  that holds it as `standard_logging_object`
- mlflow: a trace as MLflow 3 writes it (`Trace.to_json()`, or a row of `search_traces`), each model call a request
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

from configs.reading.json_text import parse_json
from configs.reading.text import MalformedError
from registry.contracts.replay import LogFormat

_REDACTED = "redacted-by-litellm"
"""In the place of messages (litellm/litellm_core_utils/redact_messages.py)."""
_OF_THE_CLIENT = ("extra_body", "extra_headers", "extra_query", "timeout")


class LoggedRequest(NamedTuple):
    """One request of a log."""

    body: dict[str, Any]
    """Of the chat API with `messages`, or of the completions API with `prompt`."""
    metadata: dict[str, str]
    """What the log says beside it."""


class NoRequest(ValueError):
    """The line holds no request that can be asked; the text says why and quotes nothing of it."""


def format_of(lines: list[dict[str, Any]]) -> set[LogFormat]:
    """Those that the lines could be of."""
    marks: dict[LogFormat, Callable[[dict[str, Any]], bool]] = {
        "litellm": lambda line: "standard_logging_object" in line or {"call_type", "model_parameters"} <= line.keys(),
        "mlflow": lambda line: "trace" in line or {"info", "data"} <= line.keys(),
        "openai": lambda line: bool({"messages", "prompt", "body"} & line.keys()),
    }
    # LiteLLM's lines hold `messages` too.
    return {next((name for name, fits in marks.items() if fits(line)), "openai") for line in lines}


def requests_of(line: Any, log_format: LogFormat) -> list[LoggedRequest]:
    """The requests that a line holds, at least one.

    Raises:
        NoRequest: It holds none.
    """
    if not isinstance(line, dict):
        raise NoRequest("it is no JSON object")
    return {"openai": _of_openai, "litellm": _of_litellm, "mlflow": _of_mlflow}[log_format](line)


def _of_openai(line: dict[str, Any]) -> list[LoggedRequest]:
    body = line.get("body", line)
    if not isinstance(body, dict):
        raise NoRequest("its `body` is no JSON object")
    return [LoggedRequest(body, _texts(line.get("metadata")) | _texts(body.get("metadata")) | _texts(line))]


def _of_litellm(line: dict[str, Any]) -> list[LoggedRequest]:
    payload = line.get("standard_logging_object", line)
    if not isinstance(payload, dict):
        raise NoRequest("its `standard_logging_object` is no JSON object")
    messages, parameters = payload.get("messages"), payload.get("model_parameters") or {}
    call = str(payload.get("call_type", ""))
    if not isinstance(parameters, dict):
        raise NoRequest("its `model_parameters` are no JSON object")
    if call.removeprefix("a") not in ("completion", "text_completion"):
        raise NoRequest("its `call_type` is neither a chat nor a completion")
    only = messages[0].get("content") if _is_one_message(messages) else messages
    if only == _REDACTED:
        raise NoRequest("its messages were redacted when it was logged")
    metadata = payload.get("metadata")
    told = _texts(metadata) | _texts(metadata.get("requester_metadata") if isinstance(metadata, dict) else None)
    if call.endswith("text_completion"):
        # Its prompt is logged as the only message of a user.
        return [LoggedRequest({"prompt": only, **parameters}, told)]
    return [LoggedRequest({"messages": messages, **parameters}, told)]


def _is_one_message(messages: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], dict)


def _of_mlflow(line: dict[str, Any]) -> list[LoggedRequest]:
    trace = _json(line.get("trace", line))
    if not isinstance(trace, dict):
        raise NoRequest("its `trace` is no JSON object")
    try:
        spans, info = trace["data"]["spans"], trace.get("info") or {}
        calls = [(_json(span["attributes"].get("mlflow.spanType")), _inputs(span)) for span in spans]
    except (LookupError, TypeError, AttributeError):
        raise NoRequest("it is no trace with `data.spans`") from None
    told = _texts(info.get("trace_metadata")) | _texts(info.get("tags"))
    asked = [(kind, inputs) for kind, inputs in calls if {"messages", "prompt"} & inputs.keys()]
    # An agent's own span may hold the messages too, which its model's calls hold again.
    of_models = [inputs for kind, inputs in asked if kind in ("CHAT_MODEL", "LLM")] or [one for _, one in asked[:1]]
    if not of_models:
        raise NoRequest("no span of it has `messages` or a `prompt` as inputs")
    return [LoggedRequest(_sent(inputs), told) for inputs in of_models]


def _sent(inputs: dict[str, Any]) -> dict[str, Any]:
    """The body that a client sent, from the arguments that it was called with (openai-python, `create`)."""
    further = inputs.get("extra_body")
    body = {name: value for name, value in inputs.items() if name not in _OF_THE_CLIENT}
    return body | (further if isinstance(further, dict) else {})


def _inputs(span: Mapping[str, Any]) -> dict[str, Any]:
    inputs = _json(span["attributes"].get("mlflow.spanInputs"))
    return inputs if isinstance(inputs, dict) else {}


def _json(value: Any) -> Any:
    """The value in a JSON text; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except MalformedError:
        raise NoRequest("a JSON text in it is broken") from None


def _texts(metadata: Any) -> dict[str, str]:
    """Keys and values of one line each."""
    if not isinstance(metadata, dict):
        return {}
    return {key: str(value) for key, value in metadata.items() if isinstance(value, str | int | float)}
