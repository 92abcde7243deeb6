"""SageMaker: requests for a model, its endpoint and its scaling, as the AWS command line reads them."""

from pathlib import PurePosixPath
from typing import Any

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.engine_arguments import variables_of
from pipelines.rendering.deploy.files import Deployment, Held, json_body, yaml_body
from pipelines.rendering.deploy.monitoring import dashboard_of
from pipelines.rendering.deploy.resources import Resources, resources_of
from pipelines.rendering.deploy.scaling import scaling_of

_MODEL = str(PurePosixPath("/opt") / "ml" / "model")
"""Where SageMaker puts a model's files."""
_VARIANT = "champion"
_MOST_STARTUP_SECONDS = 3600


def render(champion: Champion) -> Deployment:
    """Five requests. Raises RequestError where bucket, role, image or instance type are not said."""
    _check(champion)
    resources = resources_of(champion)
    requests = [*_serving_requests(champion), *_scaling_requests(champion)]
    bodies = [yaml_body(f"{verb}.yaml", request) for verb, _, request in requests]
    bodies.append(json_body("grafana-dashboard.json", dashboard_of(champion)))
    held = [Held("sagemaker.json", shape, request) for _, shape, request in requests]
    rests_on = [*resources.told, scaling_of(champion).told_ongoing]
    check, commands = _checks(champion, resources), _commands(champion, [verb for verb, _, _ in requests])
    return Deployment(f"SageMaker: {champion.model}.", bodies, held, rests_on, check, commands)


def _serving_requests(champion: Champion) -> list[tuple[str, str, dict[str, Any]]]:
    settings, name = champion.settings, champion.settings.name
    tags = [{"Key": key, "Value": value} for key, value in champion.metadata().items()]
    # The entry point listens on 8080 by itself.
    prefix = champion.container.sagemaker_prefix or ""
    variables = {f"{prefix}MODEL": _MODEL, **variables_of(champion.container.arguments, prefix)}
    source = {"S3Uri": f"{(settings.storage or '').rstrip('/')}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {
        "Image": settings.image,
        "ModelDataSource": {"S3DataSource": source},
        "Environment": {**champion.container.env, **variables},
    }
    model = {
        "ModelName": name,
        "PrimaryContainer": container,
        "ExecutionRoleArn": settings.role,
        # The container reaches nothing: its model is brought to it.
        "EnableNetworkIsolation": True,
        "Tags": tags,
    }
    variant = {
        "VariantName": _VARIANT,
        "ModelName": name,
        "InstanceType": settings.machine,
        "InitialInstanceCount": settings.scale.least,
        "ContainerStartupHealthCheckTimeoutInSeconds": _startup(champion),
        "ModelDataDownloadTimeoutInSeconds": _MOST_STARTUP_SECONDS,
    }
    config = {"EndpointConfigName": name, "ProductionVariants": [variant], "Tags": tags}
    endpoint = {"EndpointName": name, "EndpointConfigName": name, "Tags": tags}
    return [
        ("create-model", "CreateModelInput", model),
        ("create-endpoint-config", "CreateEndpointConfigInput", config),
        ("create-endpoint", "CreateEndpointInput", endpoint),
    ]


def _checks(champion: Champion, resources: Resources) -> list[str]:
    settings = champion.settings
    return [
        f"{settings.image} is an image with the entry point for SageMaker of {champion.serving.engine}"
        f" {champion.serving.engine_version}, which was measured, in a registry that the role may read.",
        f"{settings.storage} is what `quantbench artifacts export` wrote, and the role may read it.",
        f"The instance type {settings.machine} has {resources.gpus or 'no'} GPU and {resources.memory_mib:,} MiB or"
        " more.",
        "SageMaker scales by requests in flight. It asks for no times to the first token: CloudWatch has them only"
        " where the engine's own metrics are sent there.",
    ]


def _commands(champion: Champion, verbs: list[str]) -> list[str]:
    scaling = ("register-scalable-target", "put-scaling-policy")
    services = {verb: "application-autoscaling" if verb in scaling else "sagemaker" for verb in verbs}
    return [
        f"quantbench artifacts export {champion.name} model --run {champion.run_id}",
        f"aws s3 sync model {champion.settings.storage}",
        *(f"aws {service} {verb} --cli-input-yaml file://{verb}.yaml" for verb, service in services.items()),
    ]


def _check(champion: Champion) -> None:
    settings = champion.settings
    if champion.container.sagemaker_prefix is None:
        raise RequestError(
            f"{champion.serving.engine}, on which {champion.name} was measured, has no entry point for SageMaker",
            remedy="take another target",
        )
    missing = {
        "storage": not (settings.storage or "").startswith("s3://") and "s3://BUCKET/FOLDER",
        "image": settings.image is None and "ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG",
        "role": settings.role is None and "arn:aws:iam::ACCOUNT:role/NAME",
        "machine": not (settings.machine or "").startswith("ml.") and "ml.g6.xlarge",
    }
    if wanted := [f"--set {name}={example}" for name, example in missing.items() if example]:
        raise RequestError(
            f"SageMaker wants {', '.join(name for name, example in missing.items() if example)} of you",
            remedy=" ".join(wanted),
        )


def _startup(champion: Champion) -> int:
    return min(max(champion.startup_seconds, 60), _MOST_STARTUP_SECONDS)


def _scaling_requests(champion: Champion) -> list[tuple[str, str, dict[str, Any]]]:
    scaling = scaling_of(champion)
    where = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{champion.settings.name}/variant/{_VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    policy = {
        "PolicyName": champion.settings.name,
        **where,
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": float(scaling.ongoing),
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
            },
            "ScaleInCooldown": scaling.rest_seconds,
            "ScaleOutCooldown": 60,
        },
    }
    return [
        (
            "register-scalable-target",
            "RegisterScalableTargetRequest",
            {**where, "MinCapacity": scaling.least, "MaxCapacity": scaling.most},
        ),
        ("put-scaling-policy", "PutScalingPolicyRequest", policy),
    ]
