"""What two artifacts made of the same prompts, as columns: from pairs of answers, or from the samples of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from configs.errors import RequestError, StageError
from evals.judging.pair_observations import observations_of
from evals.judging.pairing import Pair as SamplePair
from evals.samples import cluster_places
from evals.statistics.routing import Flags
from evals.statistics.score import Floats
from registry.contracts.route import RouteQuality
from registry.hashing import digest_of

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

Side = Literal["champion", "candidate"]


@dataclass(frozen=True)
class RoutedItems:
    """Prompts that both artifacts answered, in the order in which they came; arrays and lists [items]."""

    ids: list[str]
    quality: RouteQuality
    cheap: Floats
    """Quality of the cheap one's answer, within 0..1."""
    precise: Floats
    clusters: NDArray[np.intp]
    """Items of one are not independent."""
    classes: list[str]
    """Of the prompts; empty for none."""
    texts: list[str]
    """Of the prompts; empty where they were not kept."""
    mean_logprob: Floats
    """Of a token of the cheap one's answer, in nats; NaN where it is not known."""
    cheap_seconds: Floats
    """NaN where it is not known, as below."""
    precise_seconds: Floats
    left_out: dict[str, int]
    """Records that say nothing, by why."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """Of what a route is judged by."""
        columns = (self.cheap, self.precise, self.mean_logprob)
        rows = zip(self.ids, self.classes, *(map(_told, column) for column in columns), strict=True)
        return digest_of([list(row) for row in rows])

    def only(self, chosen: Flags) -> RoutedItems:
        """Some of the items."""
        places = np.flatnonzero(chosen)
        _, clusters = np.unique(self.clusters[places], return_inverse=True)
        return RoutedItems(
            ids=[self.ids[place] for place in places],
            quality=self.quality,
            cheap=self.cheap[places],
            precise=self.precise[places],
            clusters=clusters.astype(np.intp),
            classes=[self.classes[place] for place in places],
            texts=[self.texts[place] for place in places],
            mean_logprob=self.mean_logprob[places],
            cheap_seconds=self.cheap_seconds[places],
            precise_seconds=self.precise_seconds[places],
            left_out={},
        )

    def halves(self) -> tuple[Flags, Flags]:
        """Two halves that share no cluster, the same ones each time: by a hash of the clusters' first ids."""
        first: dict[int, str] = {}
        for cluster, name in zip(self.clusters.tolist(), self.ids, strict=True):
            first.setdefault(cluster, name)
        inside = {cluster: hashlib.sha256(name.encode()).digest()[0] % 2 == 0 for cluster, name in first.items()}
        half = np.array([inside[cluster] for cluster in self.clusters.tolist()], dtype=np.bool_)
        return half, ~half


def items_of_pairs(table: pyarrow.Table, cheap: Side) -> RoutedItems:
    """From pairs of answers, as `read_pair_table` gives them.

    Quality is the score against the known answer; where no pair has one, whether both answers are the same. Left out
    are pairs in which a side failed, since a route's client then gets the other one's answer, and pairs without a
    quality.

    Args:
        cheap: Which side it is.

    Raises:
        StageError: A pair holds what cannot be.
        RequestError: No pair says anything of quality.
    """
    observed = observations_of(table)
    table = table.sort_by("number")
    precise: Side = "champion" if cheap == "candidate" else "candidate"
    scores = [observed.columns[f"{side}.score"] for side in (cheap, precise)]
    scored = scores[0].known & scores[1].known
    quality: RouteQuality = "score" if scored.any() else "same"
    same = observed.columns["same"]
    known = scored if quality == "score" else same.known
    used = known & ~observed.one_failed
    if not used.any():
        raise RequestError(
            "no pair has a score on both sides, and none says whether both answers are the same",
            remedy="replay prompts whose answers are known (`answers` in the config), or record more pairs",
        )
    of_cheap = scores[0].values if quality == "score" else same.values
    of_precise = scores[1].values if quality == "score" else np.ones(len(same.values))
    _check(of_cheap[used], of_precise[used])
    places = np.flatnonzero(used)
    rows = table.select(["prompt_class", "prompt"] if "prompt" in table.column_names else ["prompt_class"])
    kept = rows.take(places).to_pydict()
    return RoutedItems(
        ids=[observed.ids[place] for place in places],
        quality=quality,
        cheap=of_cheap[used],
        precise=of_precise[used],
        clusters=np.arange(len(places)),
        classes=kept["prompt_class"],
        texts=kept.get("prompt", [""] * len(places)),
        mean_logprob=observed.columns[f"{cheap}.mean_logprob"].values[used],
        cheap_seconds=observed.columns[f"{cheap}.seconds"].values[used],
        precise_seconds=observed.columns[f"{precise}.seconds"].values[used],
        left_out={
            why: int(count)
            for why, count in (
                ("a side failed", observed.one_failed.sum()),
                ("no quality is known", (~known & ~observed.one_failed).sum()),
            )
            if count
        },
    )


def items_of_samples(pairs: Sequence[SamplePair]) -> RoutedItems:
    """From a run: the baseline, which is the precise one, and an artifact on the same items.

    Their classes are the suite's categories. Left out are items whose score is no share, such as a perplexity. An item
    has no answer with a log-probability of its own: of choices, and of a known text, those are of others' words.
    """
    used = [pair for pair in pairs if all(0 <= one.score <= 1 for one in pair) and not pair[0].windows]
    if not used:
        raise RequestError(
            "no item of that run has a score from 0 to 1", remedy="name a run whose suite asks more than perplexities"
        )
    unknown = np.full(len(used), np.nan)
    return RoutedItems(
        ids=["/".join(map(str, one.key)) for one, _ in used],
        quality="score",
        cheap=np.array([other.score for _, other in used]),
        precise=np.array([one.score for one, _ in used]),
        clusters=cluster_places([one for one, _ in used]),
        classes=[one.category for one, _ in used],
        texts=[one.prompt for one, _ in used],
        mean_logprob=unknown,
        cheap_seconds=unknown,
        precise_seconds=unknown,
        left_out={"no share": len(pairs) - len(used)} if len(used) < len(pairs) else {},
    )


def _check(*qualities: Floats) -> None:
    for values in qualities:
        if not ((values >= 0) & (values <= 1)).all():
            raise StageError(
                "the record of pairs holds a score that is no number from 0 to 1",
                remedy="record the pairs anew; with a scorer whose scores are shares",
            )


def _told(value: float) -> float | None:
    """As JSON can hold it."""
    return None if np.isnan(value) else float(value)
