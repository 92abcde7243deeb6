"""The gateway's HTTP surface as OpenAPI has it, for whoever makes requests out of a description."""

from typing import Any

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
            "additionalProperties": True,
        }
    },
}


def _json(told: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": told, "content": {"application/json": {"schema": schema}}}


_REFUSED = {str(status): _json("refused", _ERROR) for status in (400, 401, 404, 405, 408, 413, 417, 500, 502, 503, 504)}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {"id": {"const": "demo"}, "object": {"const": "model"}, "created": {"type": "integer"}},
}


def _completion(field: str, value: dict[str, Any]) -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["model", field],
        "properties": {
            "model": {"enum": ["demo", "gpt-4"]},
            field: value,
            "max_tokens": {"type": "integer", "minimum": 1},
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "stream": {"type": "boolean"},
            "n": {"type": "integer", "minimum": 1, "maximum": 3},
            "user": {"type": "string"},
        },
    }
    header = {"name": "x-request-id", "in": "header", "schema": {"type": "string"}}
    answered = _json("an answer", {"type": "object", "required": ["choices"]})
    return {
        "post": {
            "parameters": [header],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": answered, **_REFUSED},
        }
    }


_MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
    },
}
_NAMED = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
_LISTED = {"type": "object", "required": ["data"], "properties": {"data": {"type": "array", "items": _MODEL}}}
_TEXT = {"200": {"description": "a page", "content": {"text/plain": {}}}, **_REFUSED}
SURFACE: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "gateway", "version": "1"},
    "paths": {
        "/v1/completions": _completion("prompt", {"type": "string"}),
        "/v1/chat/completions": _completion("messages", _MESSAGES),
        "/v1/models": {"get": {"responses": {"200": _json("models", _LISTED), **_REFUSED}}},
        "/v1/models/{model}": {
            "get": {"parameters": [_NAMED], "responses": {"200": _json("a model", _MODEL), **_REFUSED}}
        },
        "/metrics": {"get": {"responses": _TEXT}},
        "/health": {"get": {"responses": {"200": {"description": "it is there"}, **_REFUSED}}},
    },
}
