"""Writes the schemas of what is deployed beside Kubernetes' own kinds, from what the projects publish.

    cd FOLDER
    git clone https://github.com/compose-spec/compose-spec
    git clone https://github.com/kedacore/keda
    git clone https://github.com/kubernetes-sigs/gateway-api-inference-extension
    pip download --no-deps botocore==1.44.8 google-api-python-client==2.202.0 tritonclient==2.73.0 ray==2.60.0
    quantbench env sync ray-serve
    .venv/bin/python tools/platform_schemas.py FOLDER PYTHON

PYTHON is that of the environment `ray-serve`: Ray's configuration is told by its own pydantic models, and Triton's by
a protobuf descriptor, for which PYTHON has the library. Compose has a JSON schema, KEDA and the inference pool are
custom resource definitions, AWS has service models, Google has discovery documents. All become JSON schemas without
descriptions, and what is not listed in `_KEPT` is open: its name is known, and what stands in it is not looked at.
"""

import gzip
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).parents[1] / "pipelines" / "rendering" / "schemas"
_KEPT = {
    "compose.json": "command deployment healthcheck network service",
    "ray_serve.json": "AutoscalingConfig DeploymentSchema HTTPOptionsSchema LoggingConfig RayActorOptionsSchema"
    " ServeApplicationSchema",
    "sagemaker.json": "AutoRollbackConfig ContainerDefinition ContainerEnvironmentMap ModelDataSource"
    " ProductionVariant ProductionVariantList ProductionVariantManagedInstanceScaling S3ModelDataSource Tag TagList"
    " TargetTrackingScalingPolicyConfiguration PredefinedMetricSpecification CustomizedMetricSpecification"
    " MetricDimension MetricDimensions VpcConfig",
    "vertex.json": "GoogleCloudAiplatformV1Model GoogleCloudAiplatformV1ModelContainerSpec"
    " GoogleCloudAiplatformV1EnvVar GoogleCloudAiplatformV1Port GoogleCloudAiplatformV1Probe"
    " GoogleCloudAiplatformV1ProbeHttpGetAction GoogleCloudAiplatformV1DeployedModel"
    " GoogleCloudAiplatformV1DedicatedResources GoogleCloudAiplatformV1MachineSpec"
    " GoogleCloudAiplatformV1AutoscalingMetricSpec",
    "triton.json": "ModelConfig ModelInput ModelOutput ModelInstanceGroup ModelParameter ModelTransactionPolicy",
}
_SAID = {"description", "deprecated", "title", "default", "format", "x-enum-varnames", "markdownDescription"}
"""Keywords that are told to people, or that a validator does not look at."""
_ASKED_OF_RAY = """
import json
from ray.serve.schema import ServeDeploySchema
print(json.dumps(ServeDeploySchema.model_json_schema()))
"""
_ASKED_OF_TRITON = """
import json, sys, zipfile
generated = {"__name__": "model_config_pb2"}
exec(zipfile.ZipFile(sys.argv[1]).read("tritonclient/grpc/model_config_pb2.py"), generated)
kinds = {1: "number", 2: "number", 3: "integer", 4: "integer", 5: "integer", 8: "boolean", 9: "string", 13: "integer"}
def of(field):
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": of(field.message_type.fields_by_name["value"])}
    if field.message_type is not None:
        told = {"$ref": "#/$defs/" + field.message_type.name}
    elif field.enum_type is not None:
        told = {"enum": [value.name for value in field.enum_type.values]}
    else:
        told = {"type": kinds[field.type]}
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return {"type": "array", "items": told} if repeated else told
found, waiting = {}, [generated["DESCRIPTOR"].message_types_by_name["ModelConfig"]]
while waiting:
    message = waiting.pop()
    if message.name in found:
        continue
    found[message.name] = {"type": "object", "properties": {field.name: of(field) for field in message.fields}}
    for field in message.fields:
        value = field.message_type
        if value is not None and value.GetOptions().map_entry:
            value = value.fields_by_name["value"].message_type
        if value is not None:
            waiting.append(value)
print(json.dumps(found))
"""


def compose(folder: Path, python: str) -> dict[str, Any]:
    """A project's file; `x-` keys are the specification's own way out and stay allowed."""
    told = json.loads((folder / "compose-spec" / "schema" / "compose-spec.json").read_text())
    root = {name: value for name, value in told.items() if name not in ("$schema", "$id", "$defs", "definitions")}
    return {"Compose": root, **told.get("$defs", told.get("definitions"))}


def keda(folder: Path, python: str) -> dict[str, Any]:
    """A ScaledObject with Prometheus' triggers: what a trigger takes is said in its scaler's source alone."""
    schema = _of_resource(folder / "keda" / "config/crd/bases/keda.sh_scaledobjects.yaml", "v1alpha1")
    scaler = (folder / "keda" / "pkg/scalers/prometheus_scaler.go").read_text()
    names = re.findall(r'`keda:"name=(\w+),[^"]*triggerMetadata', scaler)
    trigger = schema["properties"]["spec"]["properties"]["triggers"]["items"]["properties"]
    trigger["type"] = {"enum": ["prometheus"]}
    trigger["metadata"] = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    return {"ScaledObject": schema}


def inference_pool(folder: Path, python: str) -> dict[str, Any]:
    """An InferencePool."""
    place = "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml"
    return {"InferencePool": _of_resource(folder / "gateway-api-inference-extension" / place, "v1")}


def ray_serve(folder: Path, python: str) -> dict[str, Any]:
    """What `serve deploy` takes."""
    told = json.loads(_output(python, _ASKED_OF_RAY))
    return {"ServeDeploySchema": {name: value for name, value in told.items() if name != "$defs"}, **told["$defs"]}


def sagemaker(folder: Path, python: str) -> dict[str, Any]:
    """Requests of SageMaker and of Application Auto Scaling."""
    (wheel,) = folder.glob("botocore-*.whl")
    found: dict[str, Any] = {}
    asked = {
        "sagemaker/2017-07-24": ("CreateModelInput", "CreateEndpointConfigInput", "CreateEndpointInput"),
        "application-autoscaling/2016-02-06": ("RegisterScalableTargetRequest", "PutScalingPolicyRequest"),
    }
    with zipfile.ZipFile(wheel) as packed:
        for service, roots in asked.items():
            shapes = json.loads(gzip.decompress(packed.read(f"botocore/data/{service}/service-2.json.gz")))["shapes"]
            waiting = list(roots)
            while waiting:
                name = waiting.pop()
                if name not in found:
                    found[name] = _of_shape(shapes[name])
                    waiting += _referred(found[name])
    return found


def vertex(folder: Path, python: str) -> dict[str, Any]:
    """Requests of Vertex AI."""
    (wheel,) = folder.glob("google_api_python_client-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        document = packed.read("googleapiclient/discovery_cache/documents/aiplatform.v1.json")
    return {name: _of_discovery(told) for name, told in json.loads(document)["schemas"].items()}


def triton(folder: Path, python: str) -> dict[str, Any]:
    """A model's config.pbtxt, field by field."""
    (wheel,) = folder.glob("tritonclient-*.whl")
    found: dict[str, Any] = json.loads(_output(python, _ASKED_OF_TRITON, str(wheel)))
    return found


_SOURCES: dict[str, tuple[Callable[[Path, str], dict[str, Any]], list[str]]] = {
    "compose.json": (compose, ["Compose"]),
    "keda.json": (keda, ["ScaledObject"]),
    "inference_pool.json": (inference_pool, ["InferencePool"]),
    "ray_serve.json": (ray_serve, ["ServeDeploySchema"]),
    "sagemaker.json": (
        sagemaker,
        [
            *("CreateModelInput", "CreateEndpointConfigInput", "CreateEndpointInput"),
            *("RegisterScalableTargetRequest", "PutScalingPolicyRequest"),
        ],
    ),
    "vertex.json": (
        vertex,
        ["GoogleCloudAiplatformV1UploadModelRequest", "GoogleCloudAiplatformV1DeployModelRequest"],
    ),
    "triton.json": (triton, ["ModelConfig"]),
}
"""File -> how its definitions are made, and those that documents are held against."""


def _of_resource(file: Path, version: str) -> dict[str, Any]:
    told = yaml.safe_load(file.read_text())
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in told["spec"]["versions"] if one["name"] == version)
    schema["properties"].pop("status", None)
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {
            **{name: {"type": "string"} for name in ("name", "namespace")},
            **{name: {"type": "object", "additionalProperties": {"type": "string"}} for name in _TEXTS},
        },
    }
    return _open_numbers(schema)


_TEXTS = ("labels", "annotations")


def _open_numbers(told: Any) -> Any:
    """Kubernetes' own keywords as JSON schema has them: a number or a text where either is taken."""
    if isinstance(told, list):
        return [_open_numbers(one) for one in told]
    if not isinstance(told, dict):
        return told
    if told.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return {
        name: _open_numbers(value)
        for name, value in told.items()
        if not (isinstance(value, bool | str | list) and name.startswith("x-kubernetes-"))
    }


def _of_shape(shape: dict[str, Any]) -> dict[str, Any]:
    """One shape of an AWS service model."""

    def refer(member: dict[str, Any]) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{member['shape']}"}

    kind = shape["type"]
    if kind == "structure":
        told = {"type": "object", "properties": {name: refer(one) for name, one in shape["members"].items()}}
        return told | ({"required": sorted(shape["required"])} if shape.get("required") else {})
    bounds = {name: shape[name] for name in ("min", "max") if name in shape}
    if kind == "list":
        return {"type": "array", "items": refer(shape["member"]), **_named(bounds, "minItems", "maxItems")}
    if kind == "map":
        told = {"type": "object", "additionalProperties": refer(shape["value"]), "propertyNames": refer(shape["key"])}
        return told | _named(bounds, "minProperties", "maxProperties")
    if kind == "string":
        enum = {"enum": shape["enum"]} if "enum" in shape else {}
        return {"type": "string", **enum, **_named(bounds, "minLength", "maxLength")}
    if kind in ("integer", "long", "float", "double"):
        number = "integer" if kind in ("integer", "long") else "number"
        return {"type": number, **_named(bounds, "minimum", "maximum")}
    return {"type": "boolean"} if kind == "boolean" else {}


def _named(bounds: dict[str, Any], least: str, most: str) -> dict[str, Any]:
    return {{"min": least, "max": most}[name]: value for name, value in bounds.items()}


def _of_discovery(told: dict[str, Any]) -> dict[str, Any]:
    """One schema of a discovery document: 64-bit integers are texts there, and a $ref is a name."""
    if "$ref" in told:
        return {"$ref": f"#/$defs/{told['$ref']}"}
    kept = {name: told[name] for name in ("type", "enum") if name in told}
    if kept.get("type") == "any":
        return {}
    if "properties" in told:
        kept["properties"] = {name: _of_discovery(one) for name, one in told["properties"].items()}
    for name in ("items", "additionalProperties"):
        if name in told:
            kept[name] = _of_discovery(told[name])
    return kept


def _output(python: str, program: str, *arguments: str) -> str:
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def _referred(told: Any) -> list[str]:
    if isinstance(told, list):
        return [name for one in told for name in _referred(one)]
    if not isinstance(told, dict):
        return []
    own = [told["$ref"].rsplit("/", 1)[1]] if isinstance(told.get("$ref"), str) else []
    return own + [name for value in told.values() for name in _referred(value)]


def stripped(told: Any, names: bool = False) -> Any:
    """What a validator looks at, closed: an object with fields of its own takes no others.

    Args:
        names: The keys are names of fields or definitions, and no keywords.
    """
    if isinstance(told, list):
        return [stripped(one) for one in told]
    if not isinstance(told, dict):
        return told
    if names:
        return {name: stripped(value) for name, value in told.items()}
    kept = {
        name: stripped(value, names=name in ("properties", "patternProperties"))
        for name, value in told.items()
        if name not in _SAID
    }
    # Ray's models take a plain object beside each definition, and look at it by that definition later.
    if any("$ref" in one for one in kept.get("anyOf", [])):
        kept["anyOf"] = [one for one in kept["anyOf"] if one != {"additionalProperties": True, "type": "object"}]
    if "properties" in kept and "additionalProperties" not in kept:
        kept["additionalProperties"] = False
    if "$ref" in kept:
        kept["$ref"] = "#/$defs/" + kept["$ref"].rsplit("/", 1)[1]
    return kept


def written(file: str, folder: Path, python: str) -> dict[str, Any]:
    """One file's content."""
    make, roots = _SOURCES[file]
    told, kept = make(folder, python), set(_KEPT.get(file, "").split())
    found: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        structured = {"properties", "patternProperties"} & told[name].keys()
        if name not in roots and name not in kept and structured:
            found[name] = {}
            continue
        found[name] = stripped(told[name])
        waiting += _referred(found[name])
    return {
        "$comment": "By tools/platform_schemas.py; see NOTICE.",
        "roots": roots,
        "$defs": {name: found[name] for name in sorted(found)},
    }


if __name__ == "__main__":
    for one in _SOURCES:
        text = json.dumps(written(one, Path(sys.argv[1]), sys.argv[2]), indent=1) + "\n"
        (SCHEMAS / one).write_text(text)
        print(one, len(text), "characters")
