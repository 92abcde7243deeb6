"""A first recipe that fits a model and this machine: what is chosen, and why.

What a method takes is asked of the run's own rules (`preflight.rule_violations`), so what is chosen here is not refused
there for anything that the outline tells.
"""

import re
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple, get_args

from configs.errors import RequestError
from evals.suites.resolve import load_suite
from pipelines.environments.definition import MAIN
from pipelines.planning.context import JobContext
from pipelines.planning.device import MachineRecord
from pipelines.planning.preflight import rule_violations
from pipelines.planning.stages import quantize_dtype
from pipelines.recipe.run_config import RunConfig
from quantizers.base import METHODS, load_method
from quantizers.checkpoints.first_look import ModelOutline
from quantizers.checkpoints.sources import SourceConfig
from quantizers.methods.rules import tensor_parallel_violations
from registry.contracts import CheckpointRecord
from registry.contracts.base import Device, Method

FEWEST_POSITIONS = 128
"""The embedded suite's longest items need them, and the shortest requests that the checks are made with."""
_SUITE = "demo"
_AWQ_ROWS_ON_CPU = 32
_KV_STEP_GIB = 0.25
_KV_SHARE = 0.25
"""Of the memory, at most, for the KV cache."""
_FULL = 0.8
"""Share of the memory beyond which weights leave too little for all else."""
_MOST_RANKS = 8
_LONGEST_NAME = 60


class _Scale(NamedTuple):
    """How much a device is asked."""

    max_model_len: int
    max_num_seqs: int
    samples: int
    tokens: int
    levels: list[int]
    requests: int
    output_tokens: int
    enforce_eager: bool


_FOR_WHO_ASKS = frozenset({"fp8"})
"""As large as what `w8a8` makes, and no faster where both are multiplied."""
_SCALES: dict[Device, _Scale] = {
    "cpu": _Scale(1024, 16, 64, 128, [1, 4, 8], 16, 16, True),
    "cuda": _Scale(4096, 64, 128, 512, [1, 4, 16, 64], 64, 64, False),
}


@dataclass
class FirstRecipe:
    """What is chosen for one model on one machine; `recipe_text` writes it.

    Raises:
        RequestError: The model has too few positions, cannot be served here, or no method takes it.
    """

    source: SourceConfig
    model: ModelOutline
    machine: MachineRecord
    passed_over: dict[str, str] = field(default_factory=dict, init=False)
    """Entry name -> why its method's first parameters were not taken."""
    left_out: dict[str, str] = field(default_factory=dict, init=False)
    """Entry name -> why its method does not take this model."""

    def __post_init__(self) -> None:
        if self.model.max_position_embeddings < FEWEST_POSITIONS:
            raise RequestError(
                f"{self.model.name} has {self.model.max_position_embeddings} positions; the embedded suite and the"
                f" checks need {FEWEST_POSITIONS}",
                remedy="copy configs/recipes/demo.yaml and write a suite of shorter items for this model",
            )
        self.scale = _SCALES[self.machine.device]
        self.suite = load_suite(_SUITE)
        self.methods = self._methods()
        self.config = self._config(self.methods)

    def _methods(self) -> dict[str, dict[str, Any]]:
        """The methods that take the model, those without calibration first, each with the widest groups that fit; those
        of other engines, which have environments of their own, only for who asks for them."""
        chosen = {}
        ours = [name for name in METHODS if load_method(name).environment == MAIN and name not in _FOR_WHO_ASKS]
        for method in sorted(ours, key=lambda name: load_method(name).needs_calibration):
            name = method.removeprefix("bnb_")
            refusals = []
            for parameters in self._candidates(method):
                entry = {"method": method, **parameters}
                found = self._violations(name, entry)
                if not found:
                    chosen[name] = entry
                    break
                refusals += found
            if name not in chosen:
                self.left_out[name] = refusals[-1]
            elif refusals:
                self.passed_over[name] = refusals[0]
        if not chosen:
            raise RequestError(
                f"no method takes {self.model.name}:"
                + "".join(f"\n  - {name}: {why}" for name, why in self.left_out.items()),
                remedy="mend what the lines name, or take another model",
            )
        return chosen

    def _candidates(self, method: Method) -> list[dict[str, Any]]:
        """Parameters in the order in which they are tried."""
        fields = load_method(method).config_type.model_fields
        rows = {"calibration_rows": _AWQ_ROWS_ON_CPU} if method == "awq" and self.machine.device == "cpu" else {}
        if "group_size" not in fields:
            return [rows]
        sizes = sorted(get_args(fields["group_size"].annotation), reverse=True)
        return [{"group_size": size, **rows} for size in sizes]

    def _violations(self, name: str, entry: dict[str, Any]) -> list[str]:
        """What the run's rules say against one method; RequestError for what they say against the model as such."""
        found = rule_violations(JobContext(self._config({name: entry}), self.machine, self.suite, []), self.checkpoint)
        of_method = [line.removeprefix(f"{name}: ") for line in found if line.startswith(f"{name}: ")]
        if len(of_method) < len(found):
            lines = [line for line in found if not line.startswith(f"{name}: ")]
            raise RequestError(
                f"{self.model.name} cannot be measured here:" + "".join(f"\n  - {line}" for line in lines),
                remedy="mend what the lines name, or take another model",
            )
        return of_method

    @property
    def checkpoint(self) -> CheckpointRecord:
        """What the checkpoint's record is going to be, as far as the rules ask."""
        model = self.model
        return CheckpointRecord(
            digest="sha256:" + 64 * "0",
            size_bytes=2 * model.parameters,
            architecture=model.architecture,
            parameters=model.parameters,
            dtype="bfloat16",
            max_position_embeddings=model.max_position_embeddings,
            positions=model.max_position_embeddings,
            tie_word_embeddings=False,
            linear_shapes=model.linear_shapes,
            beyond_float16={},
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_key_value_heads,
            head_size=model.head_dim,
            embedding_rows=1,  # No rule asks for it.
            has_bos_or_eos=True,
            has_chat_template=model.has_chat_template,
            origin=model.name,
        )

    @property
    def ranks(self) -> list[int]:
        """Over how many ranks the model's heads can be shared."""
        counts = range(2, _MOST_RANKS + 1)
        return [ranks for ranks in counts if not tensor_parallel_violations(self.checkpoint, ranks)]

    def _config(self, methods: dict[str, dict[str, Any]]) -> RunConfig:
        scale, context = self.scale, self.max_model_len
        return RunConfig.model_validate(
            {
                "version": 1,
                "name": re.sub(r"[^a-z0-9._-]+", "-", self.model.name.lower())[:_LONGEST_NAME].strip("-._") or "model",
                "source": self.source,
                "calibration": {
                    "source": "self",
                    "samples": scale.samples,
                    "tokens": min(scale.tokens, self.model.max_position_embeddings),
                    "chat_template": self.model.has_chat_template,
                },
                "methods": methods,
                "evaluation": {"suite": _SUITE},
                "serving": {
                    "max_model_len": context,
                    "max_num_seqs": scale.max_num_seqs,
                    "kv_cache_gib": self.kv_cache_gib,
                    "enforce_eager": scale.enforce_eager,
                },
                "load": {
                    "profiles": [{"kind": "concurrent", "levels": scale.levels}],
                    "requests": scale.requests,
                    "output_tokens": scale.output_tokens,
                },
            }
        )

    @property
    def max_model_len(self) -> int:
        return min(self.scale.max_model_len, self.model.max_position_embeddings)

    @property
    def memory_bytes(self) -> int:
        """Of the device that serves."""
        return self.machine.gpu_memory_bytes or self.machine.memory_bytes

    @property
    def kv_bytes_per_request(self) -> int:
        """Of a request that fills the context; the baseline's values are the widest."""
        wide = 4 if self.machine.serve_dtype(False) == "float32" else 2
        return self.max_model_len * self.model.kv_bytes_per_token(wide)

    @property
    def kv_cache_gib(self) -> float:
        """For all requests at full length, as far as the memory's share allows."""
        wanted = self.scale.max_num_seqs * self.kv_bytes_per_request / 2**30
        steps = min(ceil(wanted / _KV_STEP_GIB), int(_KV_SHARE * self.memory_bytes / 2**30 / _KV_STEP_GIB))
        return max(1, steps) * _KV_STEP_GIB

    @property
    def warnings(self) -> list[str]:
        """What may not fit the machine."""
        kinds = [quantize_dtype(self.config, self.machine, entry["method"]) for entry in self.methods.values()]
        dtype = "float32" if "float32" in (*kinds, self.machine.serve_dtype(False)) else "bfloat16"
        weights = self.model.parameters * (4 if dtype == "float32" else 2)
        found = []
        if weights > _FULL * self.memory_bytes:
            remedy = (
                "serve it over several GPUs: serving.tensor_parallel_size"
                if self.machine.device == "cuda"
                else "take a machine with more memory"
            )
            found.append(
                f"the weights take about {weights / 2**30:.1f} GiB in {dtype}, and there are"
                f" {self.memory_bytes / 2**30:.1f} GiB: {remedy}"
            )
        if self.kv_bytes_per_request > self.kv_cache_gib * 2**30:
            found.append(
                f"a request of {self.max_model_len} tokens takes {self.kv_bytes_per_request / 2**30:.2f} GiB of KV"
                f" cache, and {self.kv_cache_gib:g} GiB are what this memory allows: lower serving.max_model_len"
            )
        return found
