"""KServe: an InferenceService with the measured image and command, scaled by KEDA."""

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.files import Deployment, json_body, of_kinds, yaml_body
from pipelines.rendering.deploy.monitoring import dashboard_of
from pipelines.rendering.deploy.pod import annotations, around, pod_checks, server_of
from pipelines.rendering.deploy.resources import resources_of
from pipelines.rendering.deploy.scaling import scaled_object, scaling_of


def render(champion: Champion) -> Deployment:
    """For KServe 0.21 in Standard mode and KEDA 2.20. Raises RequestError where the artifact's place is not said."""
    settings, resources, scaling = champion.settings, resources_of(champion), scaling_of(champion)
    storage = settings.storage
    if storage is None or "://" not in storage:
        raise RequestError(
            f"KServe takes the artifact from an address, and storage is {storage or 'not said'}",
            remedy="copy what `quantbench artifacts export` writes: --set storage=pvc://CLAIM/FOLDER, or s3://...",
        )
    predictor = {
        "minReplicas": scaling.least,
        "maxReplicas": scaling.most,
        **around(resources),
        # KServe's storage initializer brings it to /mnt/models.
        "containers": [server_of(champion, resources, "kserve-container", STORAGE_URI=storage)],
    }
    if settings.service_account:
        predictor["serviceAccountName"] = settings.service_account
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": settings.name,
            "namespace": settings.namespace,
            "annotations": {
                **annotations(champion),
                "serving.kserve.io/deploymentMode": "Standard",
                # Else KServe makes an autoscaler of its own for the same Deployment.
                "serving.kserve.io/autoscalerClass": "external",
            },
            "labels": {"networking.kserve.io/visibility": "cluster-local"},
        },
        "spec": {"predictor": predictor},
    }
    scaled = scaled_object(champion, f"{settings.name}-predictor")
    check = [
        *pod_checks(champion, resources),
        "A memory limit of KServe's storage initializer fits the artifact, where storage is no volume.",
        "It is reached inside the cluster only; take the label networking.kserve.io/visibility out for others.",
    ]
    commands = [
        f"quantbench artifacts export {champion.name} FOLDER --run {champion.run_id}   # then copy it to {storage}",
        "kubectl apply --server-side --dry-run=server -f kserve.yaml -f scaled-object.yaml",
        "kubectl apply --server-side -f kserve.yaml -f scaled-object.yaml",
    ]
    bodies = [
        yaml_body("kserve.yaml", service),
        yaml_body("scaled-object.yaml", scaled),
        json_body("grafana-dashboard.json", dashboard_of(champion)),
    ]
    held = [*of_kinds("kserve.json", [service]), *of_kinds("keda.json", [scaled])]
    rests_on = [*resources.told, *scaling.told]
    return Deployment(f"KServe: {champion.model}.", bodies, held, rests_on, check, commands)
