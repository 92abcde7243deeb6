"""Who is told of a run that nobody watches, and of what."""

from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from configs.base import StrictModel
from configs.quantities import Label, Seconds

Event = Literal["failure", "verdict", "regression", "finished"]
"""failure: a stage failed, or the run was refused; verdict: an artifact's verdict is new, or not what it was at the run
before; regression: something became worse since the last accepted version, by tests or tolerances of the review;
finished: it came to its end, whatever was found."""

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""


def _address(url: str) -> str:
    # No text of an error repeats the address: many services' addresses are their secrets.
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("it is no address") from None
    if not host:
        raise ValueError("it is no address, such as https://hooks.example/run")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address holds no password: name a header and the variable that holds its value")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ValueError("https is wanted; http only to this machine itself, such as http://127.0.0.1:8000/")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


WebhookUrl = Annotated[Label, AfterValidator(_address)]


class _Notice(StrictModel):
    on: Annotated[list[Event], Field(min_length=1)] = ["failure", "regression"]
    """Of what it is told; once a run, whatever came together."""
    timeout_seconds: Annotated[Seconds, Field(gt=0)] = 30.0
    """When to give up on it. A run is what it was, whether it was told or not."""


class CommandNotice(_Notice):
    """A command that gets the run's outcome as JSON on standard input."""

    kind: Literal["command"]
    command: Annotated[list[Label], Field(min_length=1)]
    """Program and arguments, as they are: no shell reads them."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"command {self.command[0]}"


class SecretHeader(StrictModel):
    """A header that proves who sends."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", max_length=100)] = "Authorization"
    variable: Variable
    """Environment variable that holds the whole value, such as `Bearer ...`."""


class WebhookNotice(_Notice):
    """An address that the run's outcome is sent to as JSON, by POST."""

    kind: Literal["webhook"]
    url: WebhookUrl | None = None
    """https; http to this machine only."""
    url_variable: Variable | None = None
    """Environment variable that holds the address, where that is a secret, as with most chat services."""
    header: SecretHeader | None = None

    @property
    def name(self) -> str:
        """What it is called in messages: no more of an address than its host."""
        return f"webhook {urlsplit(self.url).hostname}" if self.url else f"webhook of {self.url_variable}"

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if (self.url is None) == (self.url_variable is None):
            raise ValueError("a webhook has either `url` or `url_variable`")
        return self


NoticeConfig = Annotated[CommandNotice | WebhookNotice, Field(discriminator="kind")]


def checked_address(url: str) -> str:
    """An address that was read from the environment.

    Raises:
        ValueError: It is none that may be sent to; the text does not hold it.
    """
    return _address(url)
