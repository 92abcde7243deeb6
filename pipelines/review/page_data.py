"""What the review page is made of: one JSON, which `/data.json` serves and an offline page holds.

Numbers that every model has are columns, as long as there are models, so that a thousand runs take a megabyte and not
ten; what only a reader of one run asks for is in `details`, of the newest runs as far as the page's size allows.
Units stand in the names: `share` is a fraction of 1, `per_million` a price of a million tokens.
"""

from datetime import datetime
from typing import Any, Literal

from pipelines.records.decision import RecommendationRecord
from registry.contracts import Flip, LoadPoint, SoundnessCheck
from registry.contracts.base import Record
from registry.contracts.comparison import CategoryRetention, Verdict
from registry.ledger import Entry

Change = Literal["worse", "better", "same", "unknown"]
"""worse and better are sure; same: not surely either; unknown: there is nothing to compare, or no honest interval."""


class Notice(Record):
    """Something that a reader expects and does not find, or finds and must doubt."""

    about: str
    """A run's id, `MLflow`, `ledger`, a shadow folder's name: what it is missing from."""
    text: str
    """What, where and what to do, in a sentence or two."""


class Runs(Record):
    """A row a run, newest first. Every list is as long as `id`."""

    id: list[str]
    started_at: list[datetime]
    """UTC. The order of runs is that in which they ended, so a clock that went back shows and shuffles nothing."""
    recipe: list[str]
    series: list[str]
    """Runs of one series follow each other in trends: the registered model, the suite and the machine are the same."""
    source: list[str]
    """What was quantized: a hub id, a path, a file."""
    machine: list[str]
    suite: list[str | None]
    """Name and version; None where nothing was evaluated."""
    registered_model: list[str]
    seconds: list[float]
    recommended: list[int | None]
    """Index of the model that was recommended, among `models`; None where none was."""
    kind: list[Literal["artifact", "undecided", "none"] | None]
    """Of the recommendation; None where the run has none."""
    failed: list[int]
    """Stages that failed."""
    page: list[str | None]
    """Address of its report, relative to the review page; None where it has none."""
    origin: list[Literal["workspace", "mlflow"]]


class Models(Record):
    """A row a model, those of a run together and its baseline first. Every list is as long as `run`."""

    run: list[int]
    """Index among the runs."""
    name: list[str]
    method: list[str]
    """`none` for a baseline."""
    digest: list[str | None]
    """The first 12 hex digits."""
    version: list[str | None]
    """Of the registered model."""
    verdict: list[Verdict | None]
    """On what was lost; None for a baseline and where nothing was compared."""
    policy: list[Verdict | None]
    failure: list[str | None]
    """Its first failure, in a sentence."""
    dtype: list[str | None]
    """Served in."""
    kernel: list[str | None]
    disk_bytes: list[int | None]
    weights_bytes: list[int | None]
    """Resident, all ranks together."""
    peak_bytes: list[int | None]
    """Of the server's processes."""
    kv_tokens: list[int | None]
    worst_category: list[str | None]
    kept: list[float | None]
    """In the worst category, above guessing; 1 is nothing lost. None for a baseline."""
    kept_low: list[float | None]
    """95 % interval; quality is read at its lower end."""
    kept_high: list[float | None]
    tokens_per_second: list[float | None]
    """Of output, at the highest level of the closed loop; None where they must not be believed."""
    concurrency: list[int | None]
    """That level."""
    tokens_per_second_alone: list[float | None]
    """With one request at a time."""
    ttft_p95_seconds: list[float | None]
    """At that level."""
    tpot_p95_seconds: list[float | None]
    decode_share: list[float | None]
    """Of what the machine's memory bandwidth, or its arithmetic, allows there; None where it was not measured."""
    prefill_share: list[float | None]
    cost_per_million: list[float | None]
    """Blended, at that level; in the currency of `PageData.price`."""
    cost_within_slo_per_million: list[float | None]
    """Blended, at the highest load that kept the SLO."""
    joules_per_token: list[float | None]
    """Of output, at that level; None where the machine does not tell."""


class CategoryColumn(Record):
    """One category over the models that were asked it; every list is as long as `model`."""

    name: str
    unit: Literal["share", "perplexity"]
    model: list[int]
    """Indices among the models, ascending."""
    score: list[float | None]
    kept: list[float | None]
    """None for a baseline, and where there is nothing to keep."""
    kept_low: list[float | None]
    kept_high: list[float | None]
    verdict: list[Verdict | None]


class Regression(Record):
    """One quantity of one model beside the last accepted version of its series."""

    model: int
    """Index among the models."""
    against: int | None
    """Index of what it is compared with; None where it is in no run that is here."""
    quantity: str
    """A category's name, or a column of the models (`QUANTITIES` in `regressions.py`)."""
    value: float | None
    before: float | None
    difference: float | None
    """`value` less `before`: of a share in points as a fraction, of all others in the quantity's own unit."""
    low: float | None = None
    """95 % interval of `difference`."""
    high: float | None = None
    how: Literal["paired", "intervals", "numbers"]
    """paired: on the same items; intervals: of two measurements apart; numbers: without an interval."""
    change: Change
    text: str
    """A sentence with the numbers and what they were taken from."""


class ModelDetail(Record):
    """What is asked of one model of one run."""

    name: str
    categories: list[CategoryRetention]
    """The worst first; at most `CATEGORIES_SHOWN`."""
    categories_left: int = 0
    """Not shown."""
    flips: list[Flip] = []
    load_points: list[LoadPoint] = []
    soundness: list[SoundnessCheck] = []
    parameters: dict[str, Any] = {}
    """Of the recipe's entry as it was run."""
    versions: dict[str, str] = {}
    """Distribution -> version, of what made and measured it."""
    memory_notes: list[str] = []
    warnings: list[str] = []
    lineage: list[tuple[str, str]]
    """What it is made of, in order, as (what, which): source, data, recipe, engine, bytes, registry, traffic."""


class RunDetail(Record):
    """What is asked of one run."""

    recommendation: RecommendationRecord | None
    models: list[ModelDetail]
    """In the order of the run."""
    config: dict[str, Any]
    """The recipe as it was run."""
    slo: dict[str, float] | None = None
    """Seconds by the SLO's names."""


class ShadowTraffic(Record):
    """Pairs of real prompts, and what they were judged."""

    name: str
    kind: Literal["replay", "gateway"]
    model: str
    champion: str
    candidate: str
    digests: list[str] = []
    """The first 12 hex digits of each side's, where they are known."""
    pairs: int
    started_at: datetime
    outcome: str | None
    """Of the verdict; None where none was asked for."""
    reason: str | None
    exploratory: bool | None
    """Judged by other limits than those stored before the first pair."""
    status: str | None = None
    """Address of a running gateway's own page."""


class PriceShown(Record):
    """What the costs were computed from."""

    currency: str
    device: str
    per_hour: float
    source: str
    read_on: str
    made_up: bool


class Deciding(Record):
    """What a reader may do from a live page; an offline page has none of it."""

    actions: list[Literal["approve", "reject", "promote", "rollback"]]
    aliases: list[str]
    """What they are for (`pipelines.recipe.registry_config.Role`); a recipe may call them otherwise."""
    csrf_token: str
    """Goes back with every decision, as does `seen`: the digest of the last of `PageData.aliases` that is of the run's
    registered model, or null where there is none."""


class PageData(Record):
    """All of it."""

    written_at: datetime
    """UTC."""
    where: str
    """The workspace, and the tracking server where one was asked."""
    shown: str | None = None
    """Id of the run that the page opens with; None: the newest where there is one run, else the table of runs."""
    notices: list[Notice] = []
    runs: Runs
    models: Models
    categories: list[CategoryColumn]
    """The ones in which most was lost first; at most `CATEGORIES_SHOWN` a run."""
    regressions: list[Regression] = []
    details: dict[str, RunDetail] = {}
    """By a run's id; a run that is not here has its report, or on a live page `/run.json?id=`."""
    aliases: list[Entry] = []
    """The ledger's rows, oldest first, of all registered models of these runs."""
    shadow: list[ShadowTraffic] = []
    prices: list[PriceShown | None] = []
    """Of each run."""
    deciding: Deciding | None = None


CATEGORIES_SHOWN = 60
"""Of a model, those that lost most; a suite of ten thousand parts is read by its verdicts, not by its table."""
