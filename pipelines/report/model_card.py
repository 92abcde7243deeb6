"""README.md of an artifact that is handed on: a model card as the Hugging Face hub reads it. Pure.

Format of the metadata: https://huggingface.co/docs/hub/model-cards and huggingface_hub's `EvalResult`. Equal records
give equal bytes. Every text that somebody else may have written is escaped, or quoted by the YAML writer.
"""

import importlib.metadata
import json
import math
from typing import Any

import yaml

from pipelines.records.artifact_of_run import ArtifactOfRun
from pipelines.records.model_cost import Pricing, model_cost, pricing_of
from pipelines.records.rows import Row, concurrencies
from pipelines.report.cost import blended_text, joules_text, price_text
from pipelines.report.judged import judged
from pipelines.report.load import conditions_text, doubt, milliseconds
from pipelines.report.markdown import escaped, table_head, table_line
from pipelines.report.summary import sentences
from pipelines.report.table import UNKNOWN, kept_text, mebibytes, plain
from quantizers.base import bits_of
from quantizers.methods.card import readers_of
from quantizers.precision.telling import told_precision
from registry.contracts import CategoryScore
from registry.contracts.base import Method, format_of
from registry.numerals import significant
from registry.signing import BILL_FILE, CARD_FILE, MANIFEST_FILE, SIGNATURE_FILE
from serving_checks.engines.table import engine_type

_LIBRARY_TAGS: dict[Method, str] = {
    "bnb_nf4": "bitsandbytes",
    "bnb_int8": "bitsandbytes",
    "rtn": "compressed-tensors",
    "w8a8": "compressed-tensors",
    "fp8": "compressed-tensors",
    "nvfp4": "compressed-tensors",
}
"""How the hub calls a format; the others are called as their method is."""

_COST = "a million tokens (blended 3:1)"

_RECOVERY = (
    "Recovery is the share that was kept of what the base model scores above guessing: (quantized − chance) / (base −"
    " chance), where guessing scores nothing quantized / base, and for perplexity base / quantized. 1 is nothing lost."
    " Intervals are of 95 % and paired: both models answered the same items."
)


def model_card(found: ArtifactOfRun) -> str:
    """The whole text, metadata first."""
    parts = [
        [f"# {escaped(found.name)}"],
        _verdict(found),
        ["## What it kept", *_kept(found)],
        ["## How it was made", *_made(found)],
        ["## Speed and memory", *_cost(found)],
        ["## How to serve it", *_serving(found)],
        ["## Files", *_files(found)],
    ]
    metadata = yaml.safe_dump(_metadata(found), sort_keys=False, allow_unicode=True, width=math.inf)
    body = "\n\n".join("\n\n".join(part) for part in parts)
    return f"---\n{metadata}---\n\n{body}\n"


def _metadata(found: ArtifactOfRun) -> dict[str, Any]:
    known = _LIBRARY_TAGS.get(found.artifact.method, format_of(found.artifact.method))
    tags = ["quantbench", "quantized", f"{bits_of(found.artifact)}-bit", known, found.artifact.method]
    # The hub knows models by their ids; a base model from elsewhere is told in words alone.
    base = {"base_model": found.hub_id, "base_model_relation": "quantized"} if found.hub_id else {}
    named = found.checkpoint.license if found.checkpoint else None
    results = [one for score in _scores(found.row) if (one := _result(found, score))]
    index = {"model-index": [{"name": plain(found.name), "results": results}]} if results else {}
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **base,
        **({"license": plain(named)} if named else {}),
        "tags": list(dict.fromkeys(tags)),
        **index,
    }


def _result(found: ArtifactOfRun, score: CategoryScore) -> dict[str, Any] | None:
    """One category as the hub lists it; None where the score is no number."""
    evaluation = found.row.measurement.evaluation if found.row.measurement else None
    if evaluation is None or not math.isfinite(score.value):
        return None
    category, suite = plain(score.category), plain(evaluation.suite)
    return {
        "task": {"type": "text-generation", "name": category},
        "dataset": {
            "type": f"quantbench-{suite}",
            "name": f"Quantbench suite {suite}, version {plain(evaluation.suite_version)}",
            "config": category,
            "revision": evaluation.suite_digest,
        },
        "metrics": [
            {
                "type": plain(score.metric),
                "value": float(f"{score.value:.6g}"),
                "name": f"{category} ({plain(score.metric)}, {score.items} items)",
                "verified": False,
            }
        ],
    }


def _verdict(found: ArtifactOfRun) -> list[str]:
    """The verdict, and what stands against the base model itself."""
    told = [f"**{escaped(one.text)}**" for one in sentences(found.run.rows) if one.name == found.row.name]
    base = escaped(found.hub_id or (found.checkpoint.origin if found.checkpoint else "of an unknown origin"))
    made = f"{escaped(found.artifact.method)}, {found.artifact.bits_per_weight:.2f} bits a quantized weight"
    named = found.checkpoint.license if found.checkpoint else None
    declared = f"{escaped(named)}, as its own card says" if named else "not known"
    told.append(f"Quantized by {made}. Base model: {base}. Licence of the base model: {declared}.")
    doubts = [check.detail for check in found.baseline.soundness if check.outcome == "warn"]
    if found.checkpoint and found.checkpoint.note:
        doubts.insert(0, found.checkpoint.note)
    return told + [f"About the base model: {escaped(doubt)}" for doubt in doubts]


def _kept(found: ArtifactOfRun) -> list[str]:
    retention = found.row.retention
    if retention is None:
        scores = _scores(found.row)
        if not scores:
            return ["It was not measured."]
        lines = [table_line([escaped(one.category), f"{one.value:.4g}", str(one.items)]) for one in scores]
        return ["It was not compared with its base model.", _lines(*table_head(["category", "score", "items"]), *lines)]
    results, gates = table_head(["category", "base", "quantized", "recovery [95 %]", "items"]), []
    for kept, one in zip(retention.categories, judged(retention), strict=True):
        recovery = kept_text(kept) or "nothing to keep"
        results.append(table_line([escaped(one.category), one.baseline, one.artifact, recovery, one.items]))
        gates.append(
            table_line([escaped(one.category), f"{one.difference_text} {one.scale}", one.margin_text, one.outcome])
        )
    risk = "" if retention.alpha is None else f" The risk that any category passes wrongly is {retention.alpha:g}."
    return [
        _asked(found),
        _lines(*results),
        _RECOVERY,
        f"Each category has to lose surely less than what is allowed.{risk}",
        _lines(*table_head(["category", "difference [95 %]", "allowed", "verdict"]), *gates),
        *(
            f"{escaped(kept.category)}: {escaped(kept.verdict_reason)}"
            for kept in retention.categories
            if kept.verdict != "pass"
        ),
    ]


def _asked(found: ArtifactOfRun) -> str:
    evaluation = found.row.measurement.evaluation if found.row.measurement else None
    if evaluation is None:
        return "How it was asked is not known."
    template = "through its chat template" if evaluation.conditions.chat_template else "without a chat template"
    return (
        f"Asked: suite {escaped(evaluation.suite)}, version {escaped(evaluation.suite_version)}"
        f" (`{evaluation.suite_digest}`), {template}, in a context of {evaluation.conditions.max_model_len} tokens."
    )


def _made(found: ArtifactOfRun) -> list[str]:
    artifact, rows = found.artifact, found.calibration
    calibrated = "none, the method looks at no data"
    if artifact.calibration_digest:
        told = (
            f"{rows.rows} rows, {rows.tokens:,} tokens from {escaped(rows.source)}, seed {rows.seed}; " if rows else ""
        )
        calibrated = f"{told}`{artifact.calibration_digest}`"
    versions = ", ".join(f"{name} {version}" for name, version in artifact.engine_versions.items())
    fallbacks = (
        f"{artifact.fallback_count} of {len(artifact.quantized_modules)} modules fell back to rounding to nearest"
        if artifact.fallback_count
        else f"{len(artifact.quantized_modules)} modules, none of which fell back to another method"
    )
    return [
        _lines(
            f"- method: {escaped(artifact.method)}",
            f"- settings: {escaped(json.dumps(artifact.parameters, sort_keys=True))}",
            f"- engine: {escaped(versions)}; worked in {artifact.quantize_dtype} on {artifact.quantize_device}"
            f" for {artifact.duration_seconds:.0f} s",
            f"- quantized: {fallbacks}",
            f"- calibration data: {calibrated}",
            *([f"- precisions: {escaped(told_precision(artifact.precision))}"] if artifact.precision else []),
            f"- base model's files: `{artifact.checkpoint_digest}`",
            f"- recorded in run {escaped(found.run.run_id)}, which ended at {found.ended_at:%Y-%m-%d %H:%M:%S} UTC",
        )
    ]


def _cost(found: ArtifactOfRun) -> list[str]:
    """What was measured beside the base model, on the machine that is named."""
    serving, rows = found.row.serving, [found.baseline, found.row]
    if serving is None:
        return ["It was not served."]
    memories = [row.serving.memory if row.serving else None for row in rows]
    lines = [
        _beside("on disk, MiB", [_mebibytes(row.size_bytes) for row in rows]),
        _beside(
            "weights in memory, MiB", [_mebibytes(one.resident_weights_bytes if one else None) for one in memories]
        ),
        _beside(
            "peak of the server's processes, MiB",
            [_mebibytes(one.peak_process_bytes if one else None) for one in memories],
        ),
    ]
    named = (("base", found.baseline), ("quantized", found.row))
    notes = [f"{name}: {escaped(conditions_text(row.serving))}" for name, row in named if row.serving]
    pricing = pricing_of(found.run.config)
    for level in concurrencies(rows):
        at = f"{level} {'requests' if level > 1 else 'request'} at a time"
        speeds = [row.tokens_per_second(level) for row in rows]
        lines.append(_beside(f"output tokens/s, {at}", [None if one is None else significant(one) for one in speeds]))
        lines.append(_beside(f"median time to first token, ms, {at}", [_first_token(row, level) for row in rows]))
        points = [(name, point) for name, row in named if (point := row.closed_point(level))]
        lines += _priced(rows, level, pricing, at)
        notes += [f"{name}, {at}: {escaped(why)}" for name, point in points if (why := doubt(point))]
        notes += [f"{name}, {at}: {share.sentence}" for name, one in named if (share := one.decode_share(level))]
    notes += [f"{name}: {share.sentence}" for name, one in named if (share := one.prefill_share)]
    if pricing and pricing.slo:
        within = [blended_text(model_cost(row, pricing, None).within_slo) for row in rows]
        lines.append(_beside(f"{_COST}, {pricing.currency}, highest load that kept the SLO", within))
    notes += [escaped(price_text(pricing))] if pricing else []
    return [
        "As measured by the run; numbers of another machine or engine differ.",
        _lines(*table_head(["", "base", "quantized"]), *lines),
        _lines(*(f"- {one}" for one in notes)),
    ]


def _priced(rows: list[Row], level: int, pricing: Pricing | None, at: str) -> list[str]:
    """Cost and energy at one level; no line of what nobody knows."""
    lines = []
    if pricing:
        costs = [blended_text(model_cost(row, pricing, level).measured) for row in rows]
        lines.append(_beside(f"{_COST}, {pricing.currency}, {at}", costs))
    joules = [joules_text(row.closed_point(level)) for row in rows]
    return lines + ([_beside(f"energy of the device, J per output token, {at}", joules)] if any(joules) else [])


def _serving(found: ArtifactOfRun) -> list[str]:
    linears = [module.name for module in found.artifact.quantized_modules]
    told = [f"Read by {readers_of(found.artifact.method, found.artifact.precision, linears)}."]
    if found.row.measurement:
        serving = found.row.measurement.serving
        context = found.row.measurement.evaluation.conditions.max_model_len
        command = engine_type(serving.engine).command_for_users(serving, context)
        told += [_lines("In this folder, as it was measured:", "", "```sh", command, "```")] if command else []
    return told


def _files(found: ArtifactOfRun) -> list[str]:
    lines = [
        table_line([escaped(name), f"{entry.size_bytes:,}", f"`{entry.digest.removeprefix('sha256:')}`"])
        for name, entry in found.files.items()
        if name != CARD_FILE
    ]
    return [
        f"The artifact is `{found.artifact.digest}`: the digest of the list in `{MANIFEST_FILE}`, which names each file"
        f" with its own. `{BILL_FILE}` is the bill of materials (CycloneDX). Where `{SIGNATURE_FILE}` is here, it signs"
        " the files below (OpenSSF Model Signing):",
        _lines(
            "```sh",
            f"python -m model_signing verify key . --signature {SIGNATURE_FILE} --public_key PUBLIC.pem",
            "```",
        ),
        _lines(*table_head(["file", "bytes", "SHA-256"]), *lines),
        f"Written by Quantbench {importlib.metadata.version('quantbench')}.",
    ]


def _scores(row: Row) -> list[CategoryScore]:
    return row.measurement.evaluation.categories if row.measurement else []


def _mebibytes(size: int | None) -> str | None:
    return None if size is None else mebibytes(size)


def _first_token(row: Row, level: int) -> str | None:
    point = row.closed_point(level)
    known = point is not None and point.completed > 0 and point.invalid is None
    return milliseconds(point.ttft.p50_seconds) if point and known else None


def _beside(what: str, cells: list[str | None]) -> str:
    return table_line([what, *(cell or UNKNOWN for cell in cells)])


def _lines(*lines: str) -> str:
    return "\n".join(lines)
