"""Values of a recipe that would fail after hours: each is refused with its line before anything is started."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from configs.errors import ConfigError
from configs.loading import load_yaml_model
from configs.quantities import Within
from evals.suites.local_data import DataMap
from evals.suites.suite import Suite
from pipelines.recipe.bench_config import BenchConfig
from pipelines.recipe.run_config import RunConfig

RECIPE = Path(__file__).parents[3] / "configs" / "recipes" / "demo.yaml"


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(RECIPE, RunConfig, [*overrides])
    return str(caught.value).replace(f"{RECIPE.parent}/", "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "serving.kv_cache_gib=1e300",
            "--set serving.kv_cache_gib=1e300: `serving.kv_cache_gib`: a number from 0 to 65536 is wanted\n"
            "  remedy: the value is '1e300'; mend it",
        ),
        ("serving.kv_cache_gib=-1", "`serving.kv_cache_gib`: input should be greater than 0"),
        ("serving.kv_cache_gib=0", "`serving.kv_cache_gib`: input should be greater than 0"),
        ("serving.kv_cache_gib='nan'", "`serving.kv_cache_gib`: input should be"),
        ("serving.kv_cache_gib='inf'", "`serving.kv_cache_gib`: input should be"),
        ("serving.kv_cache_gib=true", "`serving.kv_cache_gib`: a number is wanted, not true"),
        ("serving.max_num_seqs=yes", "`serving.max_num_seqs`: a number is wanted, not true"),
        ("serving.max_model_len=1000000000000", "`serving.max_model_len`: a number from 0 to 100000000 is wanted"),
        ("serving.tensor_parallel_size=4096", "`serving.tensor_parallel_size`: a number from 1 to 1024 is wanted"),
        (
            "serving.start_deadline_seconds=1e12",
            "`serving.start_deadline_seconds`: a number from 0 to 2592000 is wanted",
        ),
        ("calibration.samples=1000000000000", "`calibration.samples`: a number from 0 to 10000000 is wanted"),
        ("calibration.seed=-1", "`calibration.seed`: a number from 0 to 4294967295 is wanted"),
        ("calibration.seed=4294967296", "`calibration.seed`: a number from 0 to 4294967295 is wanted"),
        ("methods.int8.threshold='inf'", "`methods.int8.threshold`: input should be"),
        ("methods.gptq.damp_percent=1e9", "`methods.gptq.damp_percent`: input should be less than 1\n"),
        (
            "methods.awq.calibration_rows=1000000000000000",
            "`methods.awq.calibration_rows`: a number from 0 to 10000000 is wanted",
        ),
        ("evaluation.num_concurrent=1000000000", "`evaluation.num_concurrent`: a number from 0 to 10000000 is wanted"),
        ("load.requests=1000000000000", "`load.requests`: a number from 0 to 10000000 is wanted"),
        ("load.request_timeout_seconds='inf'", "`load.request_timeout_seconds`: input should be"),
        ("load.profiles=[{kind: poisson, requests_per_second: [1.0e+9]}]", "a number from 0 to 1000000 is wanted"),
        ("checks.batching.min_speedup='nan'", "`checks.batching.min_speedup`: input should be"),
        ("tune.slo.ttft_seconds='inf'", "`tune.slo.ttft_seconds`: a number from 0 to 2592000 is wanted"),
        ("tune.grid.kv_cache_gib=[1, 1.0e+9]", "`tune.grid.kv_cache_gib.1`: a number from 0 to 65536 is wanted"),
        ("name=" + "x" * 101, "`name`: string should have at most 100 characters"),
        ("name=Demo", "`name`: string should match pattern"),
        ('evaluation.suite="a\\nb"', "`evaluation.suite`: it holds a control character or a line end"),
        (f"source.package={'x' * 300}", "`source.package`: string should have at most 250 characters"),
        ("source={kind: gguf, path: " + "x" * 300 + "}", "`source.path`: the path is longer than any file's can be"),
        ('source={kind: gguf, path: "a\\tb"}', "`source.path`: the path holds a control character"),
        (
            "tracking.registered_model=team/tiny",
            "--set tracking.registered_model=team/tiny: `tracking.registered_model`: the name of a registered model"
            " cannot hold /, which MLflow refuses\n"
            "  remedy: the value is 'team/tiny'; mend it",
        ),
        ("tracking.experiment=''", "`tracking.experiment`: string should"),
        ("tracking.uri=localhost:5000", "`tracking.uri`: there is no tracking store localhost: in MLflow"),
    ],
)
def test_a_value_is_refused(override: str, message: str) -> None:
    assert message in refusal(override)


def numbers_without_bounds(annotation: Any, metadata: list[Any], where: str) -> list[str]:
    """Fields whose numbers have no bounds, in a type and in what it is made of."""
    if any(isinstance(getattr(one, "func", None), Within) for one in metadata):
        return []
    if annotation in (int, float):
        return [where]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return [
            name
            for key, field in fields
            for name in numbers_without_bounds(field.annotation, field.metadata, f"{annotation.__name__}.{key}")
        ]
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return numbers_without_bounds(inner[0], [*metadata, *inner[1:]], where)
    return (
        []
        if get_origin(annotation) is Literal
        else [name for one in inner for name in numbers_without_bounds(one, [], where)]
    )


@pytest.mark.parametrize("model", [RunConfig, BenchConfig, Suite, DataMap])
def test_every_number_of_a_config_has_bounds(model: type) -> None:
    """But for versions of records, the shares of an adaptive evaluation, which ascend to 1, and a port."""
    found = set(numbers_without_bounds(model, [], model.__name__))
    bounded_otherwise = {
        "SLO.schema_version",
        "LookPlan.fractions",
    }
    assert {name for name in found if not name.endswith(".port")} <= bounded_otherwise
