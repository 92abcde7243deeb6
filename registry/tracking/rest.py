"""MLflow's REST API, asked without importing MLflow."""

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import quote, urlencode

from configs.reading.json_text import parse_json
from registry.tracking.address import PASSWORD_VARIABLE, credentials_apart

_PATIENCE_SECONDS = 10.0
_MOST_BYTES = 8 << 20


class NoAnswerError(Exception):
    """The store cannot be reached, or does not answer as MLflow does."""


def ask(
    uri: str,
    path: str,
    parameters: Mapping[str, Any],
    method: Literal["GET", "POST", "DELETE"] = "GET",
    absent: str = "RESOURCE_DOES_NOT_EXIST",
) -> dict[str, Any] | None:
    """A server's answer; None where it says that there is no such thing.

    Args:
        uri: Of the server, with its password.
        path: Below /api/2.0/mlflow/.
        parameters: In the address of a GET, as JSON else.
        absent: What an error says where there is no such thing.

    Raises:
        NoAnswerError: It cannot be reached, refuses, or does not answer as an MLflow server does.
    """
    bare, variables = credentials_apart(uri)
    place = f"{bare.rstrip('/')}/api/2.0/mlflow/{path}"
    headers, body = _who(os.environ | variables), None
    if method == "GET":
        place += f"?{urlencode(parameters, quote_via=quote)}"
    else:
        headers, body = headers | {"Content-Type": "application/json"}, json.dumps(parameters).encode()
    request = urllib.request.Request(place, data=body, headers=headers, method=method)  # noqa: S310 - http or https
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as response:  # noqa: S310
            answer = parse_json(response.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        said = error.read(_MOST_BYTES)
        if error.code in (400, 404) and absent.encode() in said:
            return None
        raise NoAnswerError(f"it answered {error.code} {error.reason}: {_message(said)}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise NoAnswerError(str(getattr(error, "reason", error))) from error
    if not isinstance(answer, dict):
        raise NoAnswerError("it does not answer as an MLflow server does")
    return answer


def _message(said: bytes) -> str:
    try:
        return str(parse_json(said).get("message", ""))[:300]
    except (ValueError, AttributeError):
        return "without a word that MLflow would say"


def _who(variables: Mapping[str, str]) -> dict[str, str]:
    """The header that says who asks, from MLflow's variables for it."""
    name, token = variables.get("MLFLOW_TRACKING_USERNAME"), variables.get("MLFLOW_TRACKING_TOKEN")
    if name:
        written = f"{name}:{variables.get(PASSWORD_VARIABLE, '')}"
        return {"Authorization": "Basic " + base64.b64encode(written.encode()).decode()}
    return {"Authorization": f"Bearer {token}"} if token else {}
