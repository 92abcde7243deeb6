"""A model's chat templates: which there are, and whether they come to an end.

A template is a program. It is rendered in a sandbox that keeps it from the machine's files, not from computing for ever
or filling the memory, so it is tried first in a process of its own with limits of both (`template_trial.py`).
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

from configs.errors import UnreadableError
from configs.reading.json_text import read_json_object
from configs.reading.text import read_text
from quantizers.checkpoints.template_trial import MEMORY_BYTES, PROCESSOR_SECONDS

TEMPLATE_FILE = "chat_template.jinja"
_CONFIG_FILE = "tokenizer_config.json"
_TEMPLATE_BYTES = 1 << 20
"""The longest in use take 20 KB."""
_DEADLINE_SECONDS = 120.0
_REMEDY = "mend the template, take it out, or fetch the file again"


def chat_templates(folder: Path) -> dict[str, str]:
    """Name -> text of the templates in a model's folder; `default` is the one that is used, as transformers has it.

    Raises:
        UnreadableError: A file cannot be read, or holds what is no template.
    """
    file, config = folder / TEMPLATE_FILE, folder / _CONFIG_FILE
    if file.is_file():
        return {"default": read_text(file, _TEMPLATE_BYTES)}
    said = read_json_object(config).get("chat_template") if config.is_file() else None
    if not said:
        return {}
    named = [{"name": "default", "template": said}] if isinstance(said, str) else said
    try:
        found = {str(one["name"]): one["template"] for one in named}
    except (LookupError, TypeError):
        found = {"": None}
    if not all(isinstance(text, str) for text in found.values()):
        raise UnreadableError(
            "`chat_template` is neither a text nor a list of named texts", file=config, remedy=_REMEDY
        )
    return found


def has_chat_template(folder: Path) -> bool:
    """Whether the folder's model can be asked through a chat template (raises as `chat_templates` does)."""
    return "default" in chat_templates(folder)


def check_chat_templates(folder: Path) -> None:
    """Refuse templates that cannot be read, or that have no end.

    Raises:
        UnreadableError: With the line where it is known.
    """
    place = folder / TEMPLATE_FILE if (folder / TEMPLATE_FILE).is_file() else folder / _CONFIG_FILE
    for name, text in chat_templates(folder).items():
        fault = _fault_of(text)
        if fault is not None:
            what, line = fault
            which = "" if name == "default" else f" {name!r}"
            inside = f" in its line {line}" if line and place.name == _CONFIG_FILE else ""
            raise UnreadableError(
                f"the chat template{which} {what}{inside}",
                file=place,
                line=line if place.name == TEMPLATE_FILE else None,
                remedy=_REMEDY,
            )


def _fault_of(text: str) -> tuple[str, int | None] | None:
    """What is wrong with a template, and its line; None where it renders, or refuses what it is shown by itself."""
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-m", "quantizers.checkpoints.template_trial"],
            input=text.encode(),
            capture_output=True,
            check=False,
            timeout=_DEADLINE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"did not come to an end within {_DEADLINE_SECONDS:g} s", None
    if tried.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"does not come to an end within {PROCESSOR_SECONDS} s of computing", None
    if tried.returncode != 0:
        return f"needs more than {MEMORY_BYTES >> 20} MiB", None
    told = json.loads(tried.stdout)
    return None if told is None else (told["fault"], told["line"])
