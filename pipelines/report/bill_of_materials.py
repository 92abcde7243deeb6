"""bom.cdx.json of an artifact that is handed on: a CycloneDX ML-BOM, checked against its schema before it is written.

Specification 1.6 (ECMA-424): readers of later versions read it, and nothing of 1.7 is needed. Plain JSON, since
cyclonedx-python-lib 11 has no classes for a model card. Equal records give equal bytes: the serial number is made of
the artifact and its run, and the time is the run's end.
"""

import importlib.metadata
import json
import math
import uuid
from typing import Any
from urllib.parse import quote

from configs.errors import StageError
from pipelines.records.artifact_of_run import ArtifactOfRun
from pipelines.report.summary import sentences
from pipelines.report.table import plain
from registry.contracts import CategoryRetention, CategoryScore
from registry.signing import CARD_FILE

_SPEC_VERSION = "1.6"
_ARTIFACT, _BASE, _CALIBRATION, _SUITE = "artifact", "base-model", "calibration-data", "evaluation-suite"
"""What components are referred to by."""

_Json = dict[str, Any]


def bill_of_materials(found: ArtifactOfRun) -> str:
    """The whole text.

    Raises:
        StageError: It is not as its schema says, which is a mistake of ours.
    """
    components = [_base(found, reference=_BASE), *_data(found), *_libraries(found)]
    references = [str(one["bom-ref"]) for one in components]
    text = json.dumps(
        {
            "$schema": f"http://cyclonedx.org/schema/bom-{_SPEC_VERSION}.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": _SPEC_VERSION,
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{found.artifact.digest} {found.run.run_id}')}",
            "version": 1,
            "metadata": {
                "timestamp": found.ended_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "tools": {"components": [_tool()]},
                "component": _artifact(found),
            },
            "components": components,
            "dependencies": [
                {"ref": _ARTIFACT, "dependsOn": references},
                *({"ref": reference} for reference in references),
            ],
        },
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
    )
    _check(text)
    return f"{text}\n"


def _check(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.from_version(_SPEC_VERSION)).validate_str(text)
    if wrong is not None:
        raise StageError(
            f"the bill of materials is not as CycloneDX {_SPEC_VERSION} has it: {' '.join(str(wrong).split())[:300]}",
            remedy="this is a mistake of ours: report it with the output of `quantbench artifacts show`",
            blame="quantbench",
        )


def _artifact(found: ArtifactOfRun) -> _Json:
    artifact = found.artifact
    files = [
        {"type": "file", "name": plain(name), "hashes": _hashes(entry.digest)}
        for name, entry in sorted(found.files.items())
        if name != CARD_FILE
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": _ARTIFACT,
        "name": plain(found.name),
        "version": artifact.digest.removeprefix("sha256:")[:12],
        # Of the list of its files with their digests, the one that `quantbench artifacts show` prints.
        "hashes": _hashes(artifact.digest),
        "pedigree": {
            "ancestors": [_base(found, reference=None)],
            "notes": f"quantized by {artifact.method}, {plain(json.dumps(artifact.parameters, sort_keys=True))}",
        },
        "components": files,
        "modelCard": _model_card(found),
        "properties": _properties(
            digest=artifact.digest,
            run=found.run.run_id,
            method=artifact.method,
            bits_per_weight=f"{artifact.bits_per_weight:.4f}",
            verdict=found.row.verdict or "not judged",
        ),
    }


def _model_card(found: ArtifactOfRun) -> _Json:
    checkpoint, retention, measurement = found.checkpoint, found.row.retention, found.row.measurement
    told = [plain(one.text) for one in sentences(found.run.rows) if one.name == found.row.name]
    limits = [plain(checkpoint.note)] if checkpoint and checkpoint.note else []
    kept = retention.categories if retention else []
    limits += [f"{plain(one.category)}: {plain(one.verdict_reason)}" for one in kept if one.verdict != "pass"]
    metrics = [*map(_score, measurement.evaluation.categories if measurement else []), *map(_recovery, kept)]
    parameters: _Json = {"task": "text-generation"}
    if checkpoint:
        parameters["modelArchitecture"] = plain(checkpoint.architecture)
    parameters["datasets"] = [{"ref": one["bom-ref"]} for one in _data(found)]
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": [one for one in metrics if one]},
        "considerations": {"performanceTradeoffs": told, "technicalLimitations": limits},
    }


def _score(score: CategoryScore) -> _Json | None:
    return _metric(plain(score.metric), score.category, score.value, score.low, score.high)


def _recovery(kept: CategoryRetention) -> _Json | None:
    return _metric("recovery", kept.category, kept.kept, kept.kept_low, kept.kept_high)


def _metric(kind: str, category: str, value: float | None, low: float | None, high: float | None) -> _Json | None:
    """A number with its 95 % interval; None where there is none to tell."""
    if value is None or not math.isfinite(value):
        return None
    metric = {"type": kind, "value": f"{value:.6g}", "slice": plain(category)}
    bounds = {} if low is None or high is None else {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}
    return metric | ({"confidenceInterval": bounds} if bounds else {})


def _base(found: ArtifactOfRun, reference: str | None) -> _Json:
    """The base model: once among the components, and once without a reference among the ancestors."""
    checkpoint, (owner, _, name) = found.checkpoint, (found.hub_id or "").rpartition("/")
    named = {"group": owner, "name": name} if name else {"name": checkpoint.architecture if checkpoint else "unknown"}
    component: _Json = {"type": "machine-learning-model", **({"bom-ref": reference} if reference else {}), **named}
    component["hashes"] = _hashes(found.artifact.checkpoint_digest)
    if checkpoint:
        component["description"] = f"from {plain(checkpoint.origin)}"
    if checkpoint and checkpoint.license:
        component["licenses"] = [{"license": _license(checkpoint.license)}]
    return component


def _license(named: str) -> _Json:
    """By its SPDX identifier where it has one, as the hub writes them in small letters."""
    from cyclonedx.spdx import fixup_id

    known = fixup_id(named)
    return {**({"id": known} if known else {"name": plain(named)}), "acknowledgement": "declared"}


def _data(found: ArtifactOfRun) -> list[_Json]:
    """What it was calibrated on and what it was asked."""
    data, rows = [], found.calibration
    if found.artifact.calibration_digest:
        told = f"{rows.rows} rows, {rows.tokens} tokens from {plain(rows.source)}, seed {rows.seed}" if rows else ""
        name = f"calibration rows{f': {told}' if told else ''}"
        data.append(_dataset(_CALIBRATION, name, found.artifact.calibration_digest))
    if found.row.measurement:
        evaluation = found.row.measurement.evaluation
        name = f"suite {plain(evaluation.suite)}, version {plain(evaluation.suite_version)}"
        data.append(_dataset(_SUITE, name, evaluation.suite_digest))
    return data


def _dataset(reference: str, name: str, digest: str) -> _Json:
    return {
        "type": "data",
        "bom-ref": reference,
        "name": name,
        "hashes": _hashes(digest),
        "data": [{"type": "dataset", "name": name}],
    }


def _libraries(found: ArtifactOfRun) -> list[_Json]:
    """What it was quantized and measured with; the two may have been of different versions."""
    uses: dict[tuple[str, str], list[str]] = {}
    for use, versions in (("quantizing", found.artifact.engine_versions), ("measuring", found.measured_with)):
        for library in versions.items():
            uses.setdefault(library, []).append(use)
    return [_library(name, version, uses[name, version]) for name, version in sorted(uses)]


def _library(name: str, version: str, uses: list[str]) -> _Json:
    purl = f"pkg:pypi/{quote(name.lower(), safe='')}@{quote(version, safe='')}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": plain(name),
        "version": plain(version),
        "purl": purl,
        "properties": _properties(used_for=", ".join(uses)),
    }


def _tool() -> _Json:
    return {"type": "application", "name": "quantbench", "version": importlib.metadata.version("quantbench")}


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"quantbench:{name}", "value": plain(value)} for name, value in values.items()]
