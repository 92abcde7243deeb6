"""Writes the schemas that rendered files are held against, from what package registries have of the projects' own.

    cd FOLDER
    npm pack @kubernetes-models/{gateway-api@2.0.0,argo-rollouts@2.0.0,apimachinery@3.0.2} kubernetes-models@5.1.0
    pip download --no-deps kserve==0.21.0
    git -C KUBERAY show v1.7.0:helm-chart/kuberay-operator/crds/ray.io_raycronjobs.yaml > kuberay-1.7.0.yaml
    .venv/bin/python tools/deploy_schemas.py FOLDER

The npm packages hold the projects' OpenAPI schemas as validators that Ajv compiled, one module a definition; each
check in them says its keyword and its value, so the schema can be read back from them. KServe's Python SDK says of
each of its models what its fields are called and of which type they are. KubeRay's own definition is taken as it is,
with Kubernetes' pods in the place of its copies of them. Descriptions are left out. What is not listed in `_KEPT` is
open: its name is known, and what stands in it is not looked at.
"""

import ast
import json
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).parents[1] / "pipelines" / "rendering" / "schemas"
_GATEWAY, _ARGO = "IoK8sSigsGatewayApiApisV1", "ComGithubArgoprojArgoRolloutsPkgApisRolloutsV1alpha1"
_CORE, _META = "IoK8sApiCoreV1", "IoK8sApimachineryPkgApisMetaV1"
_BATCH = "IoK8sApiBatchV1"
_POD = (
    "Capabilities Container ContainerPort EmptyDirVolumeSource EnvVar HTTPGetAction IntOrString ObjectMeta"
    " PersistentVolumeClaimVolumeSource PodSecurityContext Probe Quantity ResourceRequirements SeccompProfile"
    " SecurityContext Volume VolumeMount"
)
"""Of what a server's pod may say."""
_RAY_CRON_JOB = "IoRayV1RayCronJob"
_KEPT = {
    "gateway_api.json": (
        [_GATEWAY + "HTTPRoute"],
        "BackendObjectReference BackendRef CommonRouteSpec Duration Fraction Group HTTPBackendRef HTTPHeader HTTPMethod"
        " HTTPPathMatch HTTPRequestMirrorFilter HTTPRouteFilter HTTPRouteFilterType HTTPRouteMatch HTTPRouteRule"
        " HTTPRouteSpec HTTPRouteTimeouts Hostname Kind Namespace ObjectName ParentReference PathMatchType PortNumber"
        " SectionName ObjectMeta",
    ),
    "argo_rollouts.json": (
        [_ARGO + "Rollout", _ARGO + "AnalysisTemplate", _CORE + "Service"],
        "AnalysisTemplateSpec AnalysisTemplateRef Argument CanaryStep CanaryStrategy ConfigMapVolumeSource Container"
        " ContainerPort DurationString EnvVar HTTPGetAction IntOrString LabelSelector Metric MetricProvider ObjectMeta"
        " PersistentVolumeClaimVolumeSource PodSpec PodTemplateSpec Probe Quantity ResourceRequirements RolloutAnalysis"
        " RolloutPause RolloutSpec RolloutStrategy RolloutTrafficRouting SecretKeyRef ServicePort ServiceSpec ValueFrom"
        " Volume VolumeMount WebMetric WebMetricHeader WebMetricMethod",
    ),
    "kubernetes_batch.json": (
        [_BATCH + "CronJob", _CORE + "PersistentVolumeClaim", _CORE + "ConfigMap"],
        "Capabilities ConfigMapVolumeSource Container CronJobSpec EmptyDirVolumeSource EnvFromSource EnvVar JobSpec"
        " JobTemplateSpec ObjectMeta PersistentVolumeClaimSpec PersistentVolumeClaimVolumeSource PodFailurePolicy"
        " PodFailurePolicyOnExitCodesRequirement PodFailurePolicyRule PodSecurityContext PodSpec PodTemplateSpec"
        " Quantity ResourceRequirements SeccompProfile SecretEnvSource SecurityContext Volume VolumeMount"
        " VolumeResourceRequirements",
    ),
    "kuberay.json": (
        [_RAY_CRON_JOB, _CORE + "PersistentVolumeClaim", _CORE + "ConfigMap"],
        "Capabilities ConfigMapVolumeSource Container ContainerPort EmptyDirVolumeSource EnvFromSource EnvVar"
        " ObjectMeta PersistentVolumeClaimSpec PersistentVolumeClaimVolumeSource PodSecurityContext PodSpec"
        " PodTemplateSpec Quantity ResourceRequirements SeccompProfile SecretEnvSource SecurityContext Volume"
        " VolumeMount VolumeResourceRequirements spec jobTemplate rayClusterSpec headGroupSpec workerGroupSpecs"
        " rayStartParams",
    ),
    "kserve.json": (
        ["V1beta1InferenceService"],
        "V1beta1InferenceServiceSpec V1beta1PredictorSpec V1beta1CanarySpec V1beta1ModelSpec V1beta1ModelFormat"
        f" {_POD}",
    ),
    "kubernetes.json": (
        ["IoK8sApiAppsV1Deployment", _CORE + "Service"],
        f"IoK8sApiAppsV1DeploymentSpec IoK8sApiAppsV1DeploymentStrategy IoK8sApiAppsV1RollingUpdateDeployment"
        f" LabelSelector PodTemplateSpec PodSpec ServicePort ServiceSpec {_POD}",
    ),
}
_PROPERTY = re.compile(r'(validate\d+)\(data(?:\.(\w+)|\["([^"]+)"\]),')
_SIMPLE = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}


class Packages:
    """What a folder of packages has of definitions, by their names."""

    def __init__(self, folder: Path) -> None:
        self.used: set[str] = set()
        self._modules: dict[str, tuple[str, str]] = {}
        self._models: dict[str, str] = {}
        for archive in sorted(folder.glob("*.tgz")):
            with tarfile.open(archive) as packed:
                for member in packed:
                    if re.search(r"/_schemas/\w+\.js$", member.name) and (file := packed.extractfile(member)):
                        self._modules[Path(member.name).stem] = (archive.stem, file.read().decode())
        (wheel,) = folder.glob("kserve-*.whl")
        with zipfile.ZipFile(wheel) as packed_wheel:
            for name in packed_wheel.namelist():
                if re.fullmatch(r"kserve/models/v1beta1_\w+\.py", name):
                    text = packed_wheel.read(name).decode()
                    self._models[re.findall(r"^class (\w+)\(", text, re.M)[0]] = text
        self._wheel = "-".join(wheel.name.split("-")[:2])
        (self._ray,) = folder.glob("kuberay-*.yaml")

    def definition(self, name: str) -> dict[str, Any]:
        """One definition, others referred to by `#/$defs/...`."""
        if name in self._models:
            self.used.add(self._wheel)
            return _of_model(self._models[name])
        if name == _RAY_CRON_JOB:
            self.used.add(self._ray.stem)
            (version,) = yaml.safe_load(self._ray.read_text())["spec"]["versions"]
            found: dict[str, Any] = _of_crd(version["schema"]["openAPIV3Schema"])
            # Its own says no more than that it is an object.
            found["properties"]["metadata"] = {"$ref": f"#/$defs/{_META}ObjectMeta"}
            return found
        archive, text = self._modules[name]
        self.used.add(archive)
        return _of_module(text)


def _of_module(text: str) -> dict[str, Any]:
    """Read a definition back from the checks that Ajv made of it."""
    imported = {
        alias: path.rsplit("/", 1)[1].removesuffix(".js")
        for alias, path in re.findall(r'import\{validate as (validate\d+)\}from"([^"]+)"', text)
    }
    enums = {name: json.loads(values) for name, values in re.findall(r"let (schema\d+_enum)=(\[.*?\]);", text)}
    bodies = dict(_bodies(text))
    (root,) = re.findall(r"export const validate=(validate\d+);", text)

    def schema_of(function: str) -> dict[str, Any]:
        if function in imported:
            return {"$ref": f"#/$defs/{imported[function]}"}
        body = bodies[function]
        schema: dict[str, Any] = {}
        checks = list(_checks(body))
        for keyword, value in checks:
            if keyword == "required":
                schema.setdefault("required", []).append(value)
            elif keyword == "enum":
                schema["enum"] = enums[value]
            elif keyword not in ("format", "oneOf"):
                schema[keyword] = value
        properties = {
            dotted or quoted: schema_of(inner)
            for inner, dotted, quoted in _PROPERTY.findall(body)
            if (dotted or quoted) != "length"
        }
        if properties:
            schema["properties"] = properties
        if items := re.search(r"(validate\d+)\(data\[i\d+\],", body):
            schema["items"] = schema_of(items[1])
        if values := re.search(r"(validate\d+)\(data\[key\d+\],", body):
            schema["additionalProperties"] = schema_of(values[1])
        whole = [schema_of(inner) for inner in re.findall(r"(validate\d+)\(data,\{", body)]
        if any(keyword == "oneOf" for keyword, _ in checks):
            schema["anyOf"] = whole
        elif whole and not schema:
            (schema,) = whole
        elif whole:
            schema["allOf"] = whole
        return schema

    return schema_of(root)


def _bodies(text: str) -> list[tuple[str, str]]:
    starts = [(match[1], match.end()) for match in re.finditer(r"function (validate\d+)\(data,\{[^}]*\}=\{\}\)", text)]
    found = []
    for name, start in starts:
        depth, end = 0, start
        while not (depth == 1 and text[end] == "}"):
            if text[end] == '"':
                end = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, end).end() - 1  # type: ignore[union-attr]
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found.append((name, text[start:end]))
    return found


def _checks(body: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for keyword, told in re.findall(r'keyword:"(\w+)",params:\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\}', body):
        value = re.sub(r'^comparison:"[<>=]+",', "", told).partition(":")[2]
        found.append((keyword, value if re.fullmatch(r"schema\d+_enum|passing\d+", value) else _literal(value)))
    return found


def _literal(text: str) -> Any:
    value = json.loads(text.replace("\\x60", "`"))
    return int(value) if isinstance(value, float) else value


def _of_model(text: str) -> dict[str, Any]:
    """Read a definition from a model of KServe's SDK."""
    types, names = (
        ast.literal_eval(re.findall(rf"{table} = (\{{.*?\}})\n", text, re.S)[0])
        for table in ("openapi_types", "attribute_map")
    )
    never_null = set(re.findall(r"Invalid value for `(\w+)`, must not be `None`", text))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {names[field]: _of_type(types[field]) for field in types},
    }
    # What has a default is told as never null too, and may be left out.
    defaults = set(re.findall(r"(\w+)=(?!None)[^,)]+", re.findall(r"def __init__\(self, (.*?)\):", text)[0]))
    if required := sorted(names[field] for field in never_null - defaults):
        schema["required"] = required
    return schema


def _of_type(told: str) -> dict[str, Any]:
    if listed := re.fullmatch(r"list\[(.+)\]", told):
        return {"type": "array", "items": _of_type(listed[1])}
    if mapped := re.fullmatch(r"dict\(str, (.+)\)", told):
        return {"type": "object", "additionalProperties": _of_type(mapped[1])}
    if told in _SIMPLE:
        return {"type": _SIMPLE[told]}
    if told == "object":
        return {}
    kubernetes = {"V1ObjectMeta": _META + "ObjectMeta", "ResourceQuantity": "IoK8sApimachineryPkgApiResourceQuantity"}
    name = kubernetes.get(told) or (told if told.startswith("V1beta1") else _CORE + told.removeprefix("V1"))
    return {"$ref": f"#/$defs/{name}"}


def _of_crd(schema: dict[str, Any]) -> dict[str, Any]:
    """A definition without descriptions and rules of the server's, closed; of pods their name."""
    kept = set(_KEPT["kuberay.json"][1].split())
    told = {
        key: schema[key] for key in ("type", "required", "enum", "minimum", "maximum", "minLength") if key in schema
    }
    if "properties" in schema:
        told["properties"] = {
            name: {"$ref": f"#/$defs/{_CORE}PodTemplateSpec"}
            if name == "template"
            else _of_crd(inner)
            if name in kept or inner.get("type") not in ("object", "array")
            else {}
            for name, inner in schema["properties"].items()
        }
        told["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        told["additionalProperties"] = _of_crd(schema["additionalProperties"])
    if "items" in schema:
        told["items"] = _of_crd(schema["items"])
    return told


def _closed(schema: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The definition with what it extends put into it, and nothing beside what it names."""
    if "properties" not in schema:
        return schema
    merged = {name: value for name, value in schema.items() if name != "allOf"}
    for extended in schema.get("allOf", []):
        base = _closed(found[extended["$ref"].rsplit("/", 1)[1]], found)
        merged["properties"] = {**base["properties"], **merged["properties"]}
        merged["required"] = sorted({*base.get("required", []), *merged.get("required", [])})
    return {name: value for name, value in merged.items() if value != []} | {"additionalProperties": False}


def written(file: str, folder: Path) -> dict[str, Any]:
    """One file's content."""
    packages = Packages(folder)
    roots, kept_names = _KEPT[file]
    kept, waiting = set(kept_names.split()), list(roots)
    found: dict[str, Any] = {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        short = re.sub(
            rf"^({_GATEWAY}|{_ARGO}|{_BATCH}|{_CORE}|{_META}|IoK8sApimachineryPkg(UtilIntstr|ApiResource))", "", name
        )
        if name not in roots and short not in kept:
            found[name] = {}
            continue
        found[name] = packages.definition(name)
        waiting += re.findall(r'"#/\$defs/(\w+)"', json.dumps(found[name]))
    definitions = {name: _closed(found[name], found) for name in sorted(found)}
    comment = f"From {', '.join(sorted(packages.used))} by tools/deploy_schemas.py; Apache-2.0, see NOTICE."
    return {"$comment": comment, "roots": roots, "$defs": definitions}


if __name__ == "__main__":
    for one in _KEPT:
        text = json.dumps(written(one, Path(sys.argv[1])), indent=1) + "\n"
        (SCHEMAS / one).write_text(text)
        print(one, len(text), "characters")
