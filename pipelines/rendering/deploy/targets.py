"""Which platforms a champion is rendered for, and the way of one: rendered, held against its schema, told."""

import importlib
from collections.abc import Mapping

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.files import Deployment
from pipelines.rendering.validation import check_document, check_documents

TARGETS: Mapping[str, str] = {
    "docker-compose": "docker_compose",
    "systemd": "systemd",
    "kserve": "kserve",
    "ray-serve": "ray_serve",
    "llm-d": "llm_d",
    "triton": "triton",
    "sagemaker": "sagemaker",
    "vertex": "vertex",
}
"""Target -> module beside this one with `render(champion)`."""
ENDED: Mapping[str, str] = {
    "fastertransformer": "NVIDIA ended FasterTransformer and names TensorRT-LLM in its place, whose engines these"
    " artifacts are not; Triton serves them by its vLLM backend: --target triton",
    "deepspeed-mii": "DeepSpeed-MII has had no release since March 2025 and reads none of these artifacts' formats;"
    " vLLM serves them, behind --target docker-compose, kserve or ray-serve",
}
"""Names that people still ask for -> what became of it."""


def render(champion: Champion, target: str) -> Deployment:
    """One target's files.

    Raises:
        RequestError: The target wants more than is known, or cannot serve this model.
        StageError: What was rendered is not what the target's schema takes.
    """
    check_target(target)
    module = importlib.import_module(f"pipelines.rendering.deploy.{TARGETS[target]}")
    rendered: Deployment = module.render(champion)
    for file, definition, document in rendered.documents:
        if definition is None:
            check_documents([document], file)
        else:
            check_document(document, file, definition)
    return rendered


def check_target(target: str) -> None:
    """Refuse a target that is none, and say what took the place of one that has ended. Raises RequestError."""
    ended = ENDED.get(target.lower().replace("_", "-"))
    if ended is not None:
        raise RequestError(f"{target} is not rendered for", remedy=ended)
    if target not in TARGETS:
        raise RequestError(f"there is no target {target!r}", remedy=f"known: {', '.join(TARGETS)}")
