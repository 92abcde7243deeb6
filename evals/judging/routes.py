"""Which rules may serve prompts cheaply: each method's in an order that was fixed before, and what they surely lose.

A cascade learns nothing, so all items are its own. What is learned, an order of classes or a classifier, is learned on
one half of the items and judged on the other; the halves are always the same. Each method has an equal part of alpha.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from evals.judging.prompt_classifier import LEAST_OF_EACH, PromptClassifier, train
from evals.judging.route_words import reason_of
from evals.judging.routed_items import RoutedItems
from evals.statistics.confidence_sequence import Bounded
from evals.statistics.routing import (
    Flags,
    Frontier,
    average_gap_recovered,
    bounded_losses,
    frontier,
    losses,
    nested,
    oracle,
    precise_share_for,
    supported,
    thinned,
)
from evals.statistics.score import Floats
from registry.contracts.route import (
    CascadeRule,
    ClassesRule,
    ClassifierRule,
    RouteCurve,
    RoutedClass,
    RouteKind,
    RouteLatency,
    RouteOutcome,
)

LOGPROB_THRESHOLDS = tuple(-0.001 * 2 ** (step / 4) for step in range(57))
"""Of mean log-probabilities, in nats: from -0.001 to -16.4, a factor of 1.19 apart. Fixed here and not by records."""
PROBABILITY_THRESHOLDS = tuple(min(1.0, 0.001 * 2 ** (step / 4)) for step in range(41))
"""Of a classifier's probabilities, from 0.001 to 1."""
LEAST_OF_CLASS = 10
"""Items of a class in the half that orders classes; smaller ones are always served precisely."""
_POINTS = 201
"""Of a curve, as it is kept."""
_GAPS = (0.2, 0.5, 0.8)
Rule = CascadeRule | ClassesRule | ClassifierRule


class JudgedRoute(NamedTuple):
    """What a method came to, with its rule where it is supported."""

    outcome: RouteOutcome
    rule: Rule | None


class _Method(NamedTuple):
    """A method's rules, from the one that risks least."""

    kind: RouteKind
    items: RoutedItems
    """That judge it."""
    order: Floats
    """The higher, the sooner an item is served cheaply; -inf for never [items]."""
    choices: list[Flags]
    rules: list[Rule]


def judge_routes(
    items: RoutedItems,
    kinds: Sequence[RouteKind],
    *,
    loss: float,
    alpha: float,
    least_share: float,
    class_by: dict[str, Any] | None,
) -> tuple[list[JudgedRoute], dict[RouteKind, str]]:
    """Judge each method that the items say anything of.

    Args:
        items: Of all records.
        kinds: Methods that are wanted.
        loss: What may be lost, as a mean over items.
        alpha: Chance of a wrong rule, over all methods; each has an equal part, whether or not it can be judged, since
            which ones can may hang on the outcomes.
        least_share: A rule that serves less cheaply is refused.
        class_by: How the items' classes were found, for the rule that is kept.

    Returns:
        A judged route each, and for each method that could not be judged why.
    """
    methods: list[_Method] = []
    missing: dict[RouteKind, str] = {}
    for kind in kinds:
        made = _method(kind, items, class_by)
        if isinstance(made, str):
            missing[kind] = made
        else:
            methods.append(made)
    return [_judged(method, loss, alpha / len(kinds), least_share) for method in methods], missing


def chosen_of(judged: Sequence[JudgedRoute]) -> JudgedRoute | None:
    """The supported one that serves the largest share cheaply."""
    return max((one for one in judged if one.outcome.supported), key=lambda one: one.outcome.share_cheap, default=None)


def _method(kind: RouteKind, items: RoutedItems, class_by: dict[str, Any] | None) -> _Method | str:
    if kind == "cascade":
        return _cascade(items)
    return _classes(items, class_by) if kind == "classes" else _classifier(items)


def _cascade(items: RoutedItems) -> _Method | str:
    known = ~np.isnan(items.mean_logprob)
    if not known.any():
        return "no answer of the cheap one has log-probabilities"
    # What has none says nothing: it may not have been asked for. In the gateway it goes to the precise one, at no loss.
    items = items.only(known)
    order = items.mean_logprob
    rules: list[Rule] = [CascadeRule(threshold=threshold) for threshold in LOGPROB_THRESHOLDS]
    return _Method("cascade", items, order, nested(order, LOGPROB_THRESHOLDS), rules)


def _classes(items: RoutedItems, class_by: dict[str, Any] | None) -> _Method | str:
    if len(set(items.classes)) < 2:
        return "the prompts are of one class, or of none"
    learned, judged = (items.only(half) for half in items.halves())
    if not len(judged):
        return "all prompts are in the half that classes are ordered by"
    lost: dict[str, list[float]] = {}
    for name, value in zip(learned.classes, learned.precise - learned.cheap, strict=True):
        lost.setdefault(name, []).append(float(value))
    means = {name: sum(values) / len(values) for name, values in lost.items() if name and len(values) >= LEAST_OF_CLASS}
    if not means:
        return f"no class has {LEAST_OF_CLASS} prompts in the half that classes are ordered by"
    ordered = sorted(means, key=lambda name: (means[name], name))
    place = {name: number for number, name in enumerate(ordered)}
    order = np.array([-float(place[name]) if name in place else -np.inf for name in judged.classes])
    choices = nested(order, [-float(number) for number in range(len(ordered))])
    rules: list[Rule] = [
        ClassesRule(class_by=class_by, cheap=sorted(ordered[: number + 1])) for number in range(len(ordered))
    ]
    return _Method("classes", judged, order, choices, rules)


def _classifier(items: RoutedItems) -> _Method | str:
    kept = np.array([text != "" for text in items.texts])
    if not kept.any():
        return "the prompts' words were not kept (`keep_prompts`)"
    items = items.only(kept)
    learned, judged = (items.only(half) for half in items.halves())
    made = train(learned.texts, learned.cheap < learned.precise) if len(learned) and len(judged) else None
    if made is None:
        return f"the half that it learns from has fewer than {LEAST_OF_EACH} prompts at which the cheap one is worse"
    order = -made.probabilities(judged.texts)
    thresholds = [-threshold for threshold in PROBABILITY_THRESHOLDS]
    rules: list[Rule] = [_classifier_rule(made, threshold, len(learned)) for threshold in PROBABILITY_THRESHOLDS]
    return _Method("classifier", judged, order, nested(order, thresholds), rules)


def _classifier_rule(made: PromptClassifier, threshold: float, trained_on: int) -> ClassifierRule:
    return ClassifierRule(threshold=threshold, intercept=made.intercept, weights=made.weights, trained_on=trained_on)


def _judged(method: _Method, limit: float, alpha: float, least_share: float) -> JudgedRoute:
    items = method.items
    found = [losses(items.cheap, items.precise, choice) for choice in method.choices]
    count = supported((bounded_losses(one, items.clusters) for one in found), limit, alpha)
    # Of those that are supported the last one serves most.
    place = count - 1
    choice = method.choices[place] if count else np.zeros(len(items), dtype=np.bool_)
    outcome = _outcome(method, choice, alpha)
    enough = outcome.share_cheap >= least_share
    following = bounded_losses(found[count], items.clusters) if count < len(found) else None
    outcome = outcome.model_copy(
        update={
            "supported": bool(count) and enough,
            "reason": reason_of(outcome, following, limit, least_share),
        }
    )
    return JudgedRoute(outcome, method.rules[place] if outcome.supported else None)


def _outcome(method: _Method, choice: Flags, alpha: float) -> RouteOutcome:
    items = method.items
    lost = bounded_losses(losses(items.cheap, items.precise, choice), items.clusters)
    share = float(choice.mean())
    # A random choice of as many gains the same share of every item's difference.
    gained = Bounded(
        np.bincount(items.clusters, (choice - share) * (items.cheap - items.precise)) / np.bincount(items.clusters),
        -1.0,
        1.0,
    )
    has_gap = bounded_losses(items.precise - items.cheap, items.clusters).lower(alpha) > 0
    worse = items.cheap < items.precise
    recovered, calls = int((worse & ~choice).sum()), int((~choice).sum())
    return RouteOutcome(
        kind=method.kind,
        supported=False,
        reason="",
        items=len(items),
        alpha=alpha,
        quality_precise=float(items.precise.mean()),
        quality_cheap=float(items.cheap.mean()),
        quality=float(np.where(choice, items.cheap, items.precise).mean()),
        share_cheap=share,
        loss=float(lost.values.mean()),
        loss_low=lost.lower(alpha),
        loss_high=lost.upper(alpha),
        flips=int(worse.sum()),
        flips_recovered=recovered,
        flips_per_call=recovered / calls if calls else None,
        flips_per_call_random=float(worse.mean()),
        gain_over_random=float(gained.values.mean()),
        gain_low=gained.lower(alpha),
        gain_high=gained.upper(alpha),
        latency=_latency(method, choice),
        classes=_by_class(items, choice, alpha),
        curve=_curve(frontier(items.cheap, items.precise, method.order), has_gap),
        oracle=_curve(oracle(items.cheap, items.precise), has_gap),
    )


def _latency(method: _Method, choice: Flags) -> RouteLatency | None:
    items = method.items
    known = ~np.isnan(items.cheap_seconds) & ~np.isnan(items.precise_seconds)
    if not known.any():
        return None
    cheap, precise, served = items.cheap_seconds[known], items.precise_seconds[known], choice[known]
    # A cascade has waited for the cheap answer before it asks the precise one.
    waited = cheap if method.kind == "cascade" else np.zeros(len(cheap))
    routed = np.where(served, cheap, waited + precise)
    p50, p95, p50_cheap, p95_cheap, p50_precise, p95_precise = (
        float(np.quantile(seconds, share)) for seconds in (routed, cheap, precise) for share in (0.5, 0.95)
    )
    return RouteLatency(
        p50=p50,
        p95=p95,
        p50_cheap=p50_cheap,
        p95_cheap=p95_cheap,
        p50_precise=p50_precise,
        p95_precise=p95_precise,
    )


def _by_class(items: RoutedItems, choice: Flags, alpha: float) -> list[RoutedClass]:
    names = np.array(items.classes, dtype=object)
    told = []
    for name in sorted(set(items.classes)):
        of_class = items.only(names == name)
        served = choice[names == name]
        lost = bounded_losses(losses(of_class.cheap, of_class.precise, served), of_class.clusters)
        told.append(
            RoutedClass(
                name=name,
                items=len(of_class),
                share_cheap=float(served.mean()),
                loss=float(lost.values.mean()),
                loss_low=lost.lower(alpha),
                loss_high=lost.upper(alpha),
            )
        )
    return told


def _curve(found: Frontier, has_gap: bool) -> RouteCurve:
    """Without a gap that is surely there, a share of it is a share of noise."""
    kept = thinned(found, _POINTS)
    return RouteCurve(
        share_cheap=kept.share_cheap.tolist(),
        quality=kept.quality.tolist(),
        average_gap_recovered=average_gap_recovered(found) if has_gap else None,
        precise_share_for={f"{share:.0%}": precise_share_for(found, share) if has_gap else None for share in _GAPS},
    )
