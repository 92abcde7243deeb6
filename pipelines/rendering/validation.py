"""Rendered documents against the projects' own schemas, offline: a key that is not known there is an error.

The schemas are stripped of descriptions and of what is never rendered (tools/deploy_schemas.py,
tools/platform_schemas.py, schemas/NOTICE).
"""

from functools import cache
from importlib.resources import files
from typing import Any

from configs.errors import StageError
from configs.reading.json_text import parse_json

_SHOWN = 200


def check_documents(documents: list[dict[str, Any]], *schema_files: str) -> None:
    """Hold each document against the definition of its kind.

    Args:
        schema_files: In `schemas/`; the first that knows a kind is taken.

    Raises:
        StageError: A document does not fit, or is of a kind that no schema is for.
    """
    for document in documents:
        kind = str(document.get("kind"))
        schema = next((found for file in schema_files if (found := _schema_of(kind, file))), None)
        if schema is None:
            raise _unfit(f"there is no schema for a {kind}")
        _check(document, kind, schema)


def check_document(document: dict[str, Any], schema_file: str, definition: str) -> None:
    """Hold one document without a kind against a definition. Raises StageError."""
    _check(document, definition, {"$ref": f"#/$defs/{definition}", "$defs": _schemas(schema_file)["$defs"]})


def _check(document: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

    error = best_match(Draft202012Validator(schema).iter_errors(document))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "its top"
        raise _unfit(f"a {name} does not fit its schema at {place}: {error.message[:_SHOWN]}")


def _unfit(what: str) -> StageError:
    return StageError(what, remedy="this is a fault of the renderer: report it with the config; nothing was written")


@cache
def _schemas(file: str) -> dict[str, Any]:
    text = files("pipelines.rendering").joinpath("schemas", file).read_bytes()
    found: dict[str, Any] = parse_json(text)
    return found


def _schema_of(kind: str, file: str) -> dict[str, Any] | None:
    schemas = _schemas(file)
    root = next((name for name in schemas["roots"] if name.endswith(kind)), None)
    return None if root is None else {"$ref": f"#/$defs/{root}", "$defs": schemas["$defs"]}
