"""A rendered file: what it is and what it cannot do as a comment, then its documents."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from configs.errors import RequestError

WHOLE = 10_000
"""What weights of both sides add up to: a hundredth of a percent is the smallest share that can be asked for."""
_WIDTH = 100


class Rendered(NamedTuple):
    """One file."""

    name: str
    purpose: str
    cannot: list[str]
    """What of the policy is lost on the way, each a sentence."""
    commands: list[str]
    """That apply it, or check it."""
    documents: list[dict[str, Any]]

    def text(self, config_file: str) -> str:
        """The file's content.

        Args:
            config_file: What it was rendered from.
        """
        # Nothing in a file's name ends the comment that it stands in.
        config_file = "".join(one if one.isprintable() else "?" for one in config_file)
        told = f"{self.purpose} Rendered by `quantbench shadow render` from {config_file}: change that and render anew."
        comment = [*wrapped(told), "", "What it does not do that `quantbench shadow up` does:"]
        for sentence in self.cannot:
            comment += wrapped(sentence, "- ")
        comment += ["", *(f"  {command}" for command in self.commands)]
        return commented(comment) + yaml_text(self.documents)


class Readable(yaml.SafeDumper):
    """How YAML is written for people."""

    def ignore_aliases(self, data: Any) -> bool:
        """What stands twice is written twice: people read these files."""
        return True


def yaml_text(documents: Sequence[dict[str, Any]], dumper: type[Readable] = Readable) -> str:
    """One file of them."""
    return "---\n".join(yaml.dump(one, Dumper=dumper, sort_keys=False, width=_WIDTH) for one in documents)


def commented(lines: list[str]) -> str:
    """As a comment of YAML, Python, systemd and others."""
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def wrapped(text: str, bullet: str = "") -> list[str]:
    """Lines of a comment."""
    return textwrap.wrap(text, _WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def weight_of(share: float) -> int:
    """A share in parts of WHOLE; what is asked for at all is at least one."""
    return max(round(share * WHOLE), 1) if share > 0 else 0


def whole_percent(share: float, field: str) -> int:
    """A share where whole percents are all that there is.

    Raises:
        RequestError: It is none; rounding it would send another share of clients to the candidate than was asked for.
    """
    percent = round(share * 100)
    if abs(percent - share * 100) > 1e-9:
        raise RequestError(
            f"traffic is split in whole percents there, and {field} is {share:g}",
            remedy=f"make it {percent / 100:g}, or render for httproute or envoy",
        )
    return percent
