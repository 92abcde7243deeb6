"""Any OpenAI-compatible server that runs already: SGLang, TGI, TensorRT-LLM, another machine's vLLM.

Nothing is started or stopped. What only the one who started it can know (the kernel, what its processes hold, whether
it serves the very bytes that the tests think it does) stays unknown and is said to be.
"""

import json
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit

from pydantic import StringConstraints, model_validator

from configs.errors import RequestError
from configs.quantities import Label
from configs.reading.json_text import parse_json
from registry.contracts.serving import Endpoint
from serving_checks.engines.base import AttachedEngine, EngineFacts, MetricNames, ServerRequest, ServingConfig
from serving_checks.transport.http_json import get_text

_KEY_REMEDY = "name the environment variable with its key as `api_key_variable`, and set it to a valid one"


class OpenAIServerConfig(ServingConfig):
    """Where a server answers, and what it was started with."""

    engine: Literal["openai"]
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^/?#@\s]+$", max_length=1000)]
    """`http://host:port`, without a path. It is this address that prompts are sent to, on this machine or not."""
    served_model_name: Label
    """What the server calls the model."""
    api_key_variable: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")] | None = None
    """Name of the environment variable that holds the key; the key itself is written nowhere."""
    fixed_length: dict[str, Any] = {"ignore_eos": True}
    """Request fields by which answers have as many tokens as are asked for. SGLang, TensorRT-LLM and vLLM take the
    default; `{}` for a server that refuses it, whose answers may then be shorter."""
    metrics: MetricNames = MetricNames()
    """What the server's /metrics page calls things; what is left out is not cross-checked."""
    eager: bool | None = None
    """Whether the server was started without compilation and graphs, for the record."""

    @model_validator(mode="after")
    def _keeps_the_key_to_itself(self) -> Self:
        if self.api_key_variable and self.base_url.startswith("http:") and not self.is_loopback:
            raise ValueError("a key is sent to another machine over https only; write https:// or leave the key out")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether the address is one of this machine's own, though what answers there may be forwarded."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False


class OpenAIAddress(AttachedEngine):
    """A server that somebody else runs."""

    name = "openai"
    config_type = OpenAIServerConfig
    distributions = ()
    config: OpenAIServerConfig

    @property
    def metrics(self) -> MetricNames:
        """See `Engine.metrics`: as the config says."""
        return self.config.metrics

    @property
    def fixed_length(self) -> Mapping[str, Any]:
        """See `Engine.fixed_length`: as the config says."""
        return self.config.fixed_length

    @property
    def api_key_variable(self) -> str | None:
        """See `Engine.api_key_variable`: as the config says."""
        return self.config.api_key_variable

    @property
    def runs_here(self) -> bool:
        """See `Engine.runs_here`: as far as the address tells."""
        return self.config.is_loopback

    def remedy_for(self, status: int) -> str | None:
        """See `Engine.remedy_for`: the key, or the fields that not every server takes."""
        if status in (401, 403):
            return _KEY_REMEDY
        if status in (400, 422) and self.config.fixed_length:
            return (
                f"if it is a field that it refuses, set `serving.fixed_length` to what makes this server's answers "
                f"full length, or to {{}} (sent was {json.dumps(self.config.fixed_length)}); else change the load"
            )
        return None

    def refusals(self, request: ServerRequest) -> list[str]:
        """See `Engine.refusals`; what a foreign server takes shows when it is asked."""
        return []

    def attach(self, request: ServerRequest) -> Endpoint:
        """See `AttachedEngine.attach`: /v1/models has to answer and to list the model."""
        config = self.config
        where = f"{config.base_url}/v1/models"
        try:
            listed = parse_json(get_text(where, api_key_variable=config.api_key_variable))
            names = [str(model["id"]) for model in listed["data"]]
        except HTTPError as error:
            raise RequestError(
                f"{where} answers {error.code} {error.reason}",
                remedy=_KEY_REMEDY if error.code in (401, 403) else "name the address of an OpenAI-compatible server",
            ) from error
        except OSError as error:
            raise RequestError(
                f"nothing answers at {where}: {error}", remedy="start the server first, or correct `base_url`"
            ) from error
        except (ValueError, LookupError, TypeError) as error:
            raise RequestError(
                f"{where} does not answer as an OpenAI-compatible server does: {error!r}", remedy="correct `base_url`"
            ) from error
        if config.served_model_name not in names:
            raise RequestError(
                f"{config.base_url} does not serve {config.served_model_name!r}",
                remedy=f"set `served_model_name` to what it serves: {', '.join(names) or 'nothing yet'}",
            )
        return Endpoint(
            base_url=config.base_url,
            served_model_name=config.served_model_name,
            model_path=str(request.model_dir),
            max_model_len=config.max_model_len,
            api_key_variable=config.api_key_variable,
        )

    def resident_weights_bytes(self, endpoint: Endpoint, log: str) -> list[int]:
        """See `Engine.resident_weights_bytes`."""
        raise ValueError("the server was not started here, so its workers cannot be asked")

    def facts(self, endpoint: Endpoint, log: str) -> EngineFacts:
        """See `Engine.facts`: what the config says of it, and what is not known."""
        return EngineFacts(
            tensor_parallel_size=self.config.tensor_parallel_size,
            eager=self.config.eager,
            max_num_seqs=self.config.max_num_seqs,
            warnings=[
                f"the server at {self.config.base_url} was not started here: that it serves these bytes, in this dtype "
                "and on this device, is its owner's word, and its log and kernel were not read"
            ],
        )
