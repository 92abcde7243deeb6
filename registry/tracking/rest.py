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
    path, headers, body = f"api/2.0/mlflow/{path}", {}, None
    if method == "GET":
        path += _query(parameters)
    else:
        headers, body = {"Content-Type": "application/json"}, json.dumps(parameters).encode()
    try:
        with _opened(uri, path, headers, body, method) as response:
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


def file_of(uri: str, run: str, path: str, most_bytes: int) -> bytes | None:
    """A file of a run; None where the server gives none: it is not there, too large, or not for who asks.

    Args:
        uri: Of the server, with its password.
        run: MLflow's own id.
        path: Among the run's files.
        most_bytes: Of the file.

    Raises:
        NoAnswerError: It cannot be reached.
    """
    try:
        with _opened(uri, "get-artifact" + _query({"run_id": run, "path": path}), {}, None, "GET") as response:
            content: bytes = response.read(most_bytes + 1)
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError, HTTPException) as error:
        raise NoAnswerError(str(getattr(error, "reason", error))) from error
    return content if len(content) <= most_bytes else None


def _opened(uri: str, path: str, headers: Mapping[str, str], body: bytes | None, method: str) -> Any:
    """The answer to a request below the server's address."""
    bare, variables = credentials_apart(uri)
    headers = {**_who(os.environ | variables), **headers}
    place = f"{bare.rstrip('/')}/{path}"
    request = urllib.request.Request(place, data=body, headers=headers, method=method)  # noqa: S310 - http or https
    return urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS)  # noqa: S310


def _query(parameters: Mapping[str, Any]) -> str:
    return f"?{urlencode(parameters, quote_via=quote)}"


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
