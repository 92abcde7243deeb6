"""A prompt's class: by the request's metadata, or by rules on its text, length, language, code and tools."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

import regex
from pydantic import AfterValidator, Field, model_validator

from configs.base import StrictModel
from configs.quantities import Count, Label, Seconds
from registry.prompt_features import LANGUAGES, holds_code, language_of
from serving_checks.replay.log_formats import NoRequest

LONGEST_CLASS = 100


def _compiles(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    return pattern


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"no such language is told apart: name one of {', '.join(sorted(LANGUAGES))}")
    return language


Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_compiles)]
"""A regular expression of the library `regex`."""
Language = Annotated[str, AfterValidator(_known)]
"""ISO 639-1, of those that `registry.prompt_features` tells apart."""


class ClassRule(StrictModel):
    """A class and what its prompts are like: all that is named has to hold."""

    name: Label
    """Of the class."""
    pattern: Pattern | None = None
    """Found anywhere in the prompt's text."""
    at_least_characters: Annotated[Count, Field(ge=1)] | None = None
    """Of the prompt's texts together."""
    at_most_characters: Annotated[Count, Field(ge=1)] | None = None
    languages: Annotated[list[Language], Field(min_length=1)] | None = None
    """One of them is the text's; a text whose language is not known is of none."""
    code: bool | None = None
    """Whether there is code in it."""
    tools: bool | None = None
    """Whether the request names tools."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if all(getattr(self, name) is None for name in ClassRule.model_fields if name != "name"):
            raise ValueError(
                "a rule says what its prompts are like: `pattern`, `at_least_characters`, `languages`, ..."
            )
        return self

    def fits(self, body: Mapping[str, Any], text: str, timeout_seconds: float) -> bool:
        """Whether a prompt is of the class. Raises TimeoutError where its pattern takes too long."""
        return (
            (self.at_least_characters is None or len(text) >= self.at_least_characters)
            and (self.at_most_characters is None or len(text) <= self.at_most_characters)
            and (self.tools is None or bool(body.get("tools")) == self.tools)
            and (self.code is None or holds_code(text) == self.code)
            and (self.languages is None or language_of(text) in self.languages)
            and (self.pattern is None or regex.search(self.pattern, text, timeout=timeout_seconds) is not None)
        )


class ClassesConfig(StrictModel):
    """Where a prompt's class comes from: one of the two."""

    metadata: Label | None = None
    """A key of the request's metadata, whose value is the class."""
    rules: list[ClassRule] = []
    """The first that fits gives the class; none for a prompt without one."""
    timeout_seconds: Annotated[Seconds, Field(gt=0)] = 0.2
    """Of one search: some patterns take hours on some texts."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.metadata is None) == (not self.rules):
            raise ValueError("name either `metadata` or `rules`")
        return self


def class_of(body: Mapping[str, Any], text: str, metadata: Mapping[str, str], classes: ClassesConfig | None) -> str:
    """The class of a prompt; empty for none.

    Args:
        body: Of the request.
        text: All its texts.
        metadata: Of the request.

    Raises:
        NoRequest: The class cannot be known; a wrong one would be judged with others.
    """
    if classes is None:
        return ""
    if classes.metadata is not None:
        name = metadata.get(classes.metadata, "")
        if len(name) > LONGEST_CLASS or not name.isprintable():
            raise NoRequest("its class is longer than a line, or holds what cannot be printed")
        return name
    for rule in classes.rules:
        try:
            if rule.fits(body, text, classes.timeout_seconds):
                return rule.name
        except TimeoutError:
            raise NoRequest(
                f"the pattern of class {rule.name} was not done with it within {classes.timeout_seconds:g} s"
            ) from None
    return ""
