"""Who answers a request, and why: the config's rules first, then the calibrated route, then the split."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from configs.base import StrictModel
from configs.quantities import LocalPath, Seconds
from registry.contracts.route import RouteRecord
from registry.prompt_features import features_of, probability
from serving_checks.gateway.asked import Asked
from serving_checks.gateway.cascade import Tried, try_cheap
from serving_checks.gateway.observed import Arm
from serving_checks.gateway.upstream import Upstream
from serving_checks.replay.classes import ClassesConfig, ClassRule, class_of
from serving_checks.replay.log_formats import NoRequest
from serving_checks.replay.prompts import text_of_body

Reason = Literal["rule", "class", "classifier", "confident", "unsure", "failed", "unsuited"]
"""`rule`: of the config. `class`, `classifier`: of the calibrated route. Of a cascade `confident`: the cheap answer;
`unsure`: it was not likely enough; `unsuited`: no single answer was asked for. `failed`: who was to answer did not."""

_SEARCH_SECONDS = 0.01
"""Of one pattern: all clients wait meanwhile. A prompt that takes longer has no class."""


class RoutedRule(ClassRule):
    """A class of prompts, and who answers them."""

    arm: Arm | None = None
    """None: the rule names the class, and the calibrated route or the split decides."""


class RoutingConfig(StrictModel):
    """Which prompts the champion answers, and which the candidate: what is promoted to `shadow`."""

    rules: list[RoutedRule] = []
    """The first that fits gives the prompt's class, and who answers it."""
    calibration: LocalPath | None = None
    """A route that `quantbench shadow route` wrote, for prompts that no rule gives to anybody."""
    cheap_seconds: Annotated[Seconds, Field(gt=0)] = 30
    """A cascade's patience with the cheap answer, from sending to its end; the precise one is asked then."""

    @property
    def class_by(self) -> dict[str, Any] | None:
        """A ClassesConfig by which the rules' classes are found again in other records; None without rules."""
        if not self.rules:
            return None
        rules = [ClassRule(**rule.model_dump(exclude={"arm"}, exclude_unset=True)) for rule in self.rules]
        return ClassesConfig(rules=rules).model_dump(mode="json")


class Decision(NamedTuple):
    """Who answers."""

    arm: Arm | None
    """None: nobody in particular, so that the split decides."""
    reason: Reason | Literal[""] = ""
    prompt_class: str = ""
    cascade: bool = False
    """The arm is asked first, and the other one where its answer is unsure."""


class Router:
    """Decides for one request after another.

    Args:
        rules: Of the config.
        record: The calibrated route; None for none.
        cheap_seconds: A cascade's patience.
    """

    def __init__(self, rules: Sequence[RoutedRule], record: RouteRecord | None, cheap_seconds: float = 30) -> None:
        self.record = record
        self.cheap: Arm | None = None
        """Who serves the route's cheap artifact now; None while other artifacts are served than the route's: then
        nobody follows it."""
        self._rules, self._cheap_seconds = rules, cheap_seconds
        self._classes = (
            ClassesConfig.model_validate(record.classes.class_by)
            if record and record.classes and record.classes.class_by
            else None
        )

    def decide(self, asked: Asked) -> Decision:
        """Who answers, without asking anybody."""
        if not self._rules and self.cheap is None:
            return Decision(None)
        try:
            text = text_of_body(asked.fields)
        except NoRequest:
            # Images and the like: no rule on texts fits, and no classifier has seen any.
            text = ""
        fitting = self._fitting(asked, text)
        name = fitting.name if fitting else ""
        if fitting and fitting.arm:
            return Decision(fitting.arm, "rule", name)
        return self._calibrated(asked, text)._replace(prompt_class=name) if name else self._calibrated(asked, text)

    async def tried(self, asked: Asked, cheap: Upstream) -> Tried:
        """Ask the cheap one first, where the route is a cascade."""
        rule = self.record.cascade if self.record else None
        return await try_cheap(asked, cheap, rule.threshold, self._cheap_seconds) if rule else Tried("unsure")

    def _calibrated(self, asked: Asked, text: str) -> Decision:
        record, cheap = self.record, self.cheap
        if record is None or cheap is None:
            return Decision(None)
        precise = other_arm(cheap)
        if record.cascade is not None:
            return Decision(cheap, cascade=True) if has_one_answer(asked) else Decision(precise, "unsuited")
        if record.classes is not None:
            name = _class_of(asked, text, self._classes)
            return Decision(cheap if name in record.classes.cheap else precise, "class", name)
        rule = record.classifier
        if rule is None or not text:
            return Decision(precise, "classifier")
        worse = probability(features_of(text), rule.weights, rule.intercept)
        return Decision(cheap if worse <= rule.threshold else precise, "classifier")

    def _fitting(self, asked: Asked, text: str) -> RoutedRule | None:
        for rule in self._rules:
            try:
                if rule.fits(asked.fields, text, _SEARCH_SECONDS):
                    return rule
            except TimeoutError:
                continue
        return None


def other_arm(arm: Arm) -> Arm:
    """The one beside."""
    return "champion" if arm == "candidate" else "candidate"


def has_one_answer(asked: Asked) -> bool:
    """Whether the answer is one text with log-probabilities of its own, and of nothing else."""
    fields = asked.fields
    alone = all(fields.get(name) in (None, 1) for name in ("n", "best_of"))
    # Echoed prompts have log-probabilities too, and several prompts have several answers.
    several = isinstance(fields.get("prompt"), list) and len(fields["prompt"]) != 1
    return alone and not several and not fields.get("echo") and fields.get("prompt_logprobs") is None


def _class_of(asked: Asked, text: str, classes: ClassesConfig | None) -> str:
    told = asked.fields.get("metadata")
    metadata = {key: value for key, value in told.items() if isinstance(value, str)} if isinstance(told, dict) else {}
    if classes is not None:
        classes = classes.model_copy(update={"timeout_seconds": min(classes.timeout_seconds, _SEARCH_SECONDS)})
    try:
        return class_of(asked.fields, text, metadata, classes)
    except NoRequest:
        return ""
