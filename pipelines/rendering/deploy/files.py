"""A target's files: what they are, from which measurement, and what to look at before they are used."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.document import commented, wrapped, yaml_text


class Body(NamedTuple):
    """One file before its head."""

    name: str
    text: str
    head: bool = True
    """Whether its format has comments that begin with `#`."""


class Held(NamedTuple):
    """A document, and what it has to fit."""

    schema_file: str
    """In `schemas/`."""
    definition: str | None
    """None: that of its `kind`."""
    document: dict[str, Any]


class Deployment(NamedTuple):
    """All that one target needs."""

    purpose: str
    """A sentence that begins with whose files they are."""
    bodies: list[Body]
    documents: list[Held]
    """What is held against schemas."""
    rests_on: list[str]
    """Where numbers come from, each a sentence."""
    check: list[str]
    """What to look at first, each a sentence."""
    commands: list[str]

    def files(self, champion: Champion) -> dict[str, str]:
        """Name -> content."""
        told = [body.name for body in self.bodies if body.head]
        heads = {name: self._whole_head(champion) for name in told[:1]}
        heads |= {
            name: [*self._origin(champion), "", f"Numbers and what to check: see {told[0]}."] for name in told[1:]
        }
        return {body.name: commented(heads.get(body.name, [])) + body.text for body in self.bodies}

    def _origin(self, champion: Champion) -> list[str]:
        serving, named = champion.serving, f", version {champion.version}" if champion.version else ""
        lines = [*wrapped(self.purpose), "By `quantbench deploy render`: render anew rather than edit.", ""]
        lines += [f"  model    {champion.name} ({champion.method}){named}", f"  digest   {champion.digest}"]
        lines.append(f"  run      {champion.run_id}")
        measured = f"{serving.engine} {serving.engine_version}, {serving.dtype}, on {serving.device_name}"
        return [*lines, f"  measured {''.join(one if one.isprintable() else '?' for one in measured)}"]

    def _whole_head(self, champion: Champion) -> list[str]:
        lines = [*self._origin(champion), ""]
        for title, sentences in (("Numbers:", self.rests_on), ("Check:", self.check)):
            lines.append(title)
            for sentence in sentences:
                lines += wrapped(sentence, "- ")
        return [*lines, "", *(f"  {command}" for command in self.commands)]


def yaml_body(name: str, *documents: dict[str, Any]) -> Body:
    """A YAML file."""
    return Body(name, yaml_text(list(documents)))


def json_body(name: str, document: dict[str, Any]) -> Body:
    """A JSON file, which has no comments."""
    return Body(name, json.dumps(document, indent=2, ensure_ascii=False) + "\n", head=False)


def of_kinds(file: str, documents: Sequence[dict[str, Any]]) -> list[Held]:
    """Kubernetes' documents, each held against the definition of its kind."""
    return [Held(file, None, one) for one in documents]
