"""A first recipe as YAML, with the reason beside each choice."""

import json
import textwrap

from pipelines.planning.first_recipe import FirstRecipe
from pipelines.planning.stages import serve_dtype
from quantizers.base import load_method

_WIDTH = 110
"""Of a comment."""


def text_of(recipe: FirstRecipe) -> str:
    """The file's text; it reads as `recipe.config`."""
    sections = (_head, _source, _calibration, _methods, _device, _evaluation, _serving, _checks, _load, _price)
    return "\n\n".join("\n".join(section(recipe)) for section in sections) + "\n"


def _head(recipe: FirstRecipe) -> list[str]:
    model, machine = recipe.model, recipe.machine
    return [
        *_comment(
            f"A first recipe for {model.name}, written by `quantbench init` for this machine. Each choice is yours to"
            " change."
        ),
        *_comment(
            f"Model: {model.architecture}, {model.num_hidden_layers} layers of {model.hidden_size} features, about"
            f" {model.parameters / 1e6:.0f} million parameters. Machine: {machine.device}, {machine.device_name},"
            f" {machine.threads} threads, {recipe.memory_bytes / 2**30:.0f} GiB."
        ),
        *(line for text in recipe.warnings for line in _comment(f"WARNING: {text}.")),
        "version: 1",
        f"name: {json.dumps(recipe.config.name)}",
    ]


def _source(recipe: FirstRecipe) -> list[str]:
    said = recipe.source.model_dump(mode="json", exclude_defaults=True)
    return ["source:", *(f"  {key}: {json.dumps(value)}" for key, value in said.items())]


def _calibration(recipe: FirstRecipe) -> list[str]:
    calibration, entries = recipe.config.calibration, recipe.methods.items()
    calibrated = [name for name, entry in entries if load_method(entry["method"]).needs_calibration]
    template = (
        "The tokenizer has a chat template, so the model is calibrated on what it is going to see."
        if calibration.chat_template
        else "The tokenizer has no chat template."
    )
    return [
        *_comment(
            f"What calibrated methods ({', '.join(calibrated) or 'none here'}) look at: text that the model itself"
            " writes, so no data is needed; `source: file` takes a .jsonl or .txt of yours. More and longer rows do"
            f" better and take longer. {template}"
        ),
        "calibration:",
        "  source: self",
        f"  samples: {calibration.samples}",
        f"  tokens: {calibration.tokens}",
        f"  chat_template: {json.dumps(calibration.chat_template)}",
    ]


def _methods(recipe: FirstRecipe) -> list[str]:
    lines = [*_comment("One artifact each, in this order."), "methods:"]
    for name, entry in recipe.methods.items():
        if name in recipe.passed_over:
            lines += _comment(f"{_fact(recipe.passed_over[name])}, so {entry['group_size']}.", "  ")
        if "calibration_rows" in entry:
            lines += _comment(f"On a CPU, the time of {name} grows with every row: it takes the first ones only.", "  ")
        lines.append(f"  {name}: {{{', '.join(f'{key}: {value}' for key, value in entry.items())}}}")
    for name, why in recipe.left_out.items():
        lines += _comment(f"Not {name}: {_fact(why)}.", "  ")
    return lines


def _device(recipe: FirstRecipe) -> list[str]:
    machine = recipe.machine
    served: dict[str, list[str]] = {}
    for name, method in (("the baseline", None), *((name, entry["method"]) for name, entry in recipe.methods.items())):
        served.setdefault(serve_dtype(recipe.config, machine, method), []).append(name)
    here = "; ".join(f"{dtype}: {', '.join(names)}" for dtype, names in served.items())
    why = (
        "It multiplies bfloat16 fast."
        if machine.fast_bfloat16
        else "It has neither AMX nor AVX512-BF16 and multiplies bfloat16 slowly; the engine takes 4-bit weights in 16"
        " bits only."
    )
    return [
        *_comment(f"`auto` is {machine.device} here and serves in {here}. {why}"),
        "device: auto",
        "dtype: {quantize: auto, serve: auto}",
    ]


def _evaluation(recipe: FirstRecipe) -> list[str]:
    return [
        *_comment(
            "About 1,600 short items that come with Quantbench: no data is needed, and large losses are found. `core`"
            " and `full` decide between good models; they ask the hub, or local rows: `data: {root: ..., map:"
            " local_jsonl}`."
        ),
        "evaluation:",
        f"  suite: {recipe.config.evaluation.suite}",
    ]


def _serving(recipe: FirstRecipe) -> list[str]:
    seqs, filled = recipe.scale.max_num_seqs, recipe.scale.max_num_seqs * recipe.kv_bytes_per_request
    eager = "Compilation does not pay on a CPU." if recipe.scale.enforce_eager else "Compiled, as in use."
    return [
        *_comment(
            f"The model has {recipe.model.max_position_embeddings} positions. {seqs} requests of `max_model_len` fill"
            f" {filled / 2**30:.2f} GiB of KV cache; it gets a quarter of the memory at most. {eager}"
        ),
        "serving:",
        f"  max_model_len: {recipe.max_model_len}",
        f"  max_num_seqs: {seqs}",
        f"  kv_cache_gib: {recipe.kv_cache_gib:g}",
        f"  enforce_eager: {json.dumps(recipe.scale.enforce_eager)}",
    ]


def _checks(recipe: FirstRecipe) -> list[str]:
    ranks = recipe.ranks
    sharding = (
        f"`sharding: {{tensor_parallel_size: {ranks[0]}}}` proves a split over ranks; this model's heads take"
        f" {', '.join(map(str, ranks))}."
        if ranks
        else "The model's heads cannot be shared by two to eight ranks."
    )
    return [*_comment(f"Continuous batching and fairness are proved without being asked for. {sharding}"), "checks: {}"]


def _load(recipe: FirstRecipe) -> list[str]:
    load = recipe.config.load
    return [
        *_comment(
            f"Closed loops with so many requests in flight; the server works on {recipe.scale.max_num_seqs} at once."
            " Others: `{kind: poisson, requests_per_second: [2]}`, users who wait for nobody; `{kind: sweep}`, the"
            " highest rate that keeps `slo: {ttft_seconds: 1.0, tpot_seconds: 0.1}`."
        ),
        "load:",
        "  profiles:",
        f"    - {{kind: concurrent, levels: [{', '.join(map(str, recipe.scale.levels))}]}}",
        f"  requests: {load.requests}",
        f"  output_tokens: {load.output_tokens}",
    ]


def _price(recipe: FirstRecipe) -> list[str]:
    return _comment(
        "What a million tokens cost is told where a price is: `price: {device: one H100, currency: USD, per_hour: 4.29,"
        ' source: "where you read it", read_on: "2026-11-26"}`. `recommend: {goal: cheapest}` chooses by it.'
    )


def _fact(violation: str) -> str:
    """A violation without the remedy that ends it."""
    return violation.rpartition("; ")[0] or violation


def _comment(text: str, indent: str = "") -> list[str]:
    """Lines of YAML comment. No name from outside can end one."""
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
