"""A made-up workspace as `PageData`: deterministic, of any size, with the holes that real ones have."""

import math
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from pipelines.records.decision import Candidate, LimitOutcome, RecommendationRecord
from pipelines.review.page_data import (
    CategoryColumn,
    ModelDetail,
    Models,
    Notice,
    PageData,
    PriceShown,
    Regression,
    RunDetail,
    Runs,
    ShadowTraffic,
)
from registry.contracts import Flip, LoadPoint, Percentiles
from registry.contracts.comparison import CategoryRetention, Verdict
from registry.ledger import Entry

BEGAN = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
CATEGORIES = ("knowledge", "reasoning", "maths", "code", "instructions", "languages", "safety", "running text")
ARTIFACTS = (
    # name, method, share of the baseline's bytes, of its speed, what is lost in a category
    ("gptq-int4", "gptq", 0.34, 1.9, 0.030),
    ("awq-int4", "awq", 0.35, 1.7, 0.022),
    ("int8", "bnb_int8", 0.56, 0.8, 0.006),
    ("rtn-int4", "rtn", 0.33, 1.8, 0.110),
    ("w8a8", "w8a8", 0.55, 1.4, 0.010),
    ("nf4", "bnb_nf4", 0.36, 0.7, 0.045),
)
_BYTES = 270_000_000
_MARGIN = 0.05


def review(runs: int = 6, models: int = 5, categories: int = 8, details: int = 2, seed: int = 7) -> PageData:
    """So many runs, newest first, of three series.

    Args:
        models: Of a run, its baseline among them.
        categories: Names beyond the eight known are numbered.
        details: So many of the newest runs have them.
    """
    made = [
        _Run(number, models, categories, Random(seed * 100_003 + number))  # noqa: S311 - no secret
        for number in reversed(range(runs))
    ]
    rows = [dict(row, run=index) for index, run in enumerate(made) for row in run.rows]
    names = _names(categories)
    asked: dict[str, dict[str, list[Any]]] = {name: _empty(CategoryColumn) for name in names}
    for index, cells in enumerate(cells for run in made for cells in run.cells):
        for name, cell in zip(names, cells, strict=True):
            for field, value in {**cell, "model": index}.items():
                asked[name][field].append(value)
    firsts = [index * models for index in range(runs)]
    return PageData(
        written_at=BEGAN + timedelta(days=runs),
        where="made up",
        notices=[Notice(about="MLflow", text="did not answer within 5 s; runs that are only there are not shown.")],
        runs=Runs(**_columns(Runs, [run.told(first) for run, first in zip(made, firsts, strict=True)])),
        models=Models(**_columns(Models, rows)),
        categories=[CategoryColumn(name=name, unit=_unit(name), **asked[name]) for name in names],
        regressions=_regressions(made, rows, models),
        details={run.id: run.detail(names) for run in made[:details]},
        aliases=_aliases(),
        shadow=_shadow(),
        prices=[_PRICE if run.number % 5 else None for run in made],
    )


class _Run:
    def __init__(self, number: int, models: int, categories: int, random: Random) -> None:
        self.number, self.random = number, random
        self.id = f"{BEGAN + timedelta(days=number):%Y%m%d-%H%M%S}-{number:04x}"
        self.made = [("baseline", "none", 1.0, 1.0, 0.0), *ARTIFACTS[: models - 1]]
        self.cells = [self._cells(loss, categories) for *_, loss in self.made]
        self.rows = [self._row(*kind, cells) for kind, cells in zip(self.made, self.cells, strict=True)]

    @property
    def choice(self) -> int | None:
        """Place of the fastest that passed."""
        passed = [place for place, row in enumerate(self.rows) if row["policy"] == "pass"]
        return max(passed, key=lambda place: self.rows[place]["tokens_per_second"] or 0.0, default=None)

    def told(self, first: int) -> dict[str, Any]:
        choice = self.choice
        return {
            "id": self.id,
            "started_at": BEGAN + timedelta(days=self.number),
            "recipe": ("nightly", "llama_int4", "sweep of group sizes")[self.number % 3],
            "series": ("smollm2 on cpu", "smollm2 on cpu", "llama on h100")[self.number % 3],
            "source": ("HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B")[self.number % 3 == 2],
            "machine": ("2 CPU threads", "NVIDIA H100")[self.number % 3 == 2],
            "suite": "core 4",
            "registered_model": ("smollm2", "llama")[self.number % 3 == 2],
            "seconds": 900 + self.random.random() * 300,
            "recommended": None if choice is None else first + choice,
            "kind": "none" if choice is None else "artifact",
            "failed": int(self.number % 17 == 3),
            "page": f"runs/{self.id}/report.html",
            "origin": "mlflow" if self.number % 11 == 10 else "workspace",
        }

    def _cells(self, loss: float, categories: int) -> list[dict[str, Any]]:
        cells = []
        for place, name in enumerate(_names(categories)):
            base = 11.4 if _unit(name) == "perplexity" else 0.45 + 0.05 * (place % 8)
            if not loss:
                cells.append(_cell(base, None, None, None))
                continue
            late = 0.03 if self.number and self.number % 7 == 0 and place == 2 else 0.0
            kept = 1 - loss * (0.5 + 0.4 * (place % 3)) - late + self.random.gauss(0, 0.004)
            half = 0.012 + 0.004 * (place % 3)
            cells.append(_cell(base / kept if base > 1 else base * kept, kept, kept - half, kept + half))
        return cells

    def _row(self, name: str, method: str, size: float, speed: float, loss: float, cells: list[Any]) -> dict[str, Any]:
        worst = min(range(len(cells)), key=lambda place: cells[place]["kept"] or 9.0)
        fast = (100.0 if self.number % 3 != 2 else 2400.0) * speed * self.random.uniform(0.97, 1.03)
        verdict: Verdict | None = _worst(cells) if loss else None
        silent = self.number % 23 == 22
        return {
            "name": name,
            "method": method,
            "digest": f"{self.random.getrandbits(48):012x}",
            "version": str(self.number * 4 + 1) if loss else None,
            "verdict": verdict,
            "policy": verdict,
            "failure": None,
            "dtype": "float32",
            "kernel": "marlin" if method in ("gptq", "awq") else "torch",
            "disk_bytes": int(_BYTES * size),
            "weights_bytes": None if silent else int(_BYTES * size * 1.04),
            "peak_bytes": None if silent else int(_BYTES * size * 1.04) + 900_000_000,
            "kv_tokens": int(40_000 * (1.6 - size)),
            "worst_category": _names(len(cells))[worst] if loss else None,
            "kept": cells[worst]["kept"],
            "kept_low": cells[worst]["kept_low"],
            "kept_high": cells[worst]["kept_high"],
            "tokens_per_second": None if silent else fast,
            "concurrency": 8,
            "tokens_per_second_alone": fast / 5,
            "ttft_p95_seconds": 0.21 / speed * self.random.uniform(0.95, 1.05),
            "tpot_p95_seconds": 8 / fast,
            "decode_share": min(0.9, 0.55 / speed**0.5),
            "prefill_share": 0.3,
            "cost_per_million": 40.0 / fast if self.number % 5 else None,
            "cost_within_slo_per_million": 60.0 / fast if self.number % 5 else None,
            "joules_per_token": None,
        }

    def detail(self, names: list[str]) -> RunDetail:
        choice = self.choice
        candidates = [_candidate(row, self.rows, choice) for row in self.rows[1:]]
        return RunDetail(
            recommendation=RecommendationRecord(
                goal="speed",
                kind="none" if choice is None else "artifact",
                choice=None if choice is None else self.rows[choice]["name"],
                digest=None if choice is None else f"sha256:{self.rows[choice]['digest']}",
                sentence="every artifact surely breaks a limit, so the baseline stays"
                if choice is None
                else f"{self.rows[choice]['name']}: the fastest of those that pass every limit,"
                f" {self.rows[choice]['tokens_per_second'] or 0:.0f} output tokens/s",
                candidates=candidates,
                next_step="quantbench promote" if choice else "a larger suite or 8 bits",
            ),
            models=[self._model(row, cells, names) for row, cells in zip(self.rows, self.cells, strict=True)],
            config={
                "name": "nightly",
                "quantize": [{"name": row["name"], "method": row["method"]} for row in self.rows],
            },
            slo={"ttft_seconds": 0.5, "tpot_seconds": 0.1},
        )

    def _model(self, row: dict[str, Any], cells: list[dict[str, Any]], names: list[str]) -> ModelDetail:
        kept = [_retention(name, cell) for name, cell in zip(names, cells, strict=True) if cell["kept"] is not None]
        fast = row["tokens_per_second"] or 1.0
        return ModelDetail(
            name=row["name"],
            categories=sorted(kept, key=lambda one: one.retention or 0)[:60],
            categories_left=max(0, len(kept) - 60),
            flips=[_flip(name, number) for name in names[:3] for number in range(3)] if kept else [],
            load_points=[_load_point(level, fast) for level in (1, 2, 4, 8)],
            parameters={"bits": 4, "group_size": 128 if row["method"] == "gptq" else 64} if kept else {},
            versions={"vllm": "0.32.0", "torch": "2.13.0", "gptqmodel": f"7.3.{self.number % 9}"},
            memory_notes=[],
            lineage=[
                ("source", "HuggingFaceTB/SmolLM2-135M"),
                ("data", "texts the model wrote itself, 128 rows"),
                ("recipe", "nightly"),
                ("engine", "vllm 0.32.0"),
                ("bytes", f"sha256:{row['digest']}"),
                ("registry", f"smollm2 version {row['version']}"),
            ],
        )


def _names(categories: int) -> list[str]:
    return [*CATEGORIES, *(f"part {number:05d}" for number in range(len(CATEGORIES), categories))][:categories]


def _unit(name: str) -> Any:
    return "perplexity" if name == "running text" else "share"


def _cell(score: float, kept: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    verdict = None
    if kept is not None and low is not None and high is not None:
        verdict = "pass" if low >= 1 - _MARGIN else "fail" if high < 1 - _MARGIN else "inconclusive"
    return {"score": score, "kept": kept, "kept_low": low, "kept_high": high, "verdict": verdict}


def _worst(cells: list[dict[str, Any]]) -> Verdict:
    found = {cell["verdict"] for cell in cells}
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def _empty(record: type[CategoryColumn]) -> dict[str, list[Any]]:
    return {name: [] for name in record.model_fields if name not in ("schema_version", "name", "unit")}


def _columns(record: type[Runs] | type[Models], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in record.model_fields if name != "schema_version"}


def _candidate(row: dict[str, Any], rows: list[dict[str, Any]], choice: int | None) -> Candidate:
    beaten = row["policy"] == "pass" and choice is not None and rows[choice]["name"] != row["name"]
    return Candidate(
        name=row["name"],
        digest=f"sha256:{row['digest']}",
        limits=[
            LimitOutcome(
                limit="quality",
                outcome=row["verdict"],
                reason=f"{row['worst_category']} kept {row['kept']:.3f}, at least {row['kept_low']:.3f}",
            ),
            LimitOutcome(limit="size", outcome="pass", reason=f"{row['disk_bytes'] / 2**20:.0f} MiB on disk"),
        ],
        beaten_by=rows[choice]["name"] if beaten and choice is not None else None,
    )


def _retention(name: str, cell: dict[str, Any]) -> CategoryRetention:
    base = 11.4 if _unit(name) == "perplexity" else 0.5
    return CategoryRetention(
        category=name,
        unit=_unit(name),
        items=800,
        chance=None,
        baseline=base,
        artifact=cell["score"],
        retention=cell["kept"],
        retention_stderr=0.008,
        retention_low=cell["kept_low"],
        retention_high=cell["kept_high"],
        chance_corrected_retention=None,
        difference=cell["score"] - base,
        difference_stderr=0.01,
        difference_low=cell["score"] - base - 0.02,
        difference_high=cell["score"] - base + 0.02,
        flips_to_wrong=31,
        flips_to_right=12,
        p_value=0.02,
        margin=_MARGIN,
        verdict=cell["verdict"],
        verdict_reason=f"kept {cell['kept']:.3f}, {cell['kept_low']:.3f} to {cell['kept_high']:.3f}",
    )


def _flip(category: str, number: int) -> Flip:
    return Flip(
        task=f"{category}_task",
        category=category,
        doc_id=number,
        answer_type="free text",
        baseline_score=1.0,
        artifact_score=0.0,
        shift_nats=None,
        prompt=f"Question {number}: how many apples are left when 3 of 12 are eaten?",
        expected="9",
        baseline_answer="12 apples less 3 apples leaves 9 apples, so the answer is 9.",
        artifact_answer="12 apples less 3 apples leaves 8 apples, so the answer is 8.",
    )


def _load_point(level: int, fastest: float) -> LoadPoint:
    def percentiles(seconds: float) -> Percentiles:
        return Percentiles(
            p50_seconds=seconds, p90_seconds=1.3 * seconds, p95_seconds=1.5 * seconds, p99_seconds=2 * seconds
        )

    rate = fastest * math.sqrt(level / 8)
    return LoadPoint(
        profile="concurrent",
        prompts="mixed",
        concurrency=level,
        requests_per_second_offered=None,
        requests=64,
        completed=64,
        failed=0,
        timed_out=0,
        duration_seconds=60.0,
        prompt_tokens=16_000,
        output_tokens=8_000,
        output_tokens_per_second=rate,
        requests_per_second=rate / 128,
        good_requests_per_second=rate / 140,
        ttft=percentiles(0.05 * level),
        tpot=percentiles(level / rate),
        itl=percentiles(level / rate),
        e2e=percentiles(128 * level / rate),
        client_queue=percentiles(0.001),
        server_prompt_tokens=16_000,
        server_output_tokens=8_000,
        requests_running_peak=level,
        requests_waiting_peak=0,
        saturated=False,
    )


def _regressions(made: list[_Run], rows: list[dict[str, Any]], models: int) -> list[Regression]:
    """Of each artifact beside the same one of the run before of its series: maths and the speed."""
    found = []
    for index, run in enumerate(made):
        before = next(
            (i for i in range(index + 1, len(made)) if made[i].told(0)["series"] == run.told(0)["series"]), None
        )
        if before is None:
            continue
        for place in range(1, models):
            new, old = index * models + place, before * models + place
            speed, was = rows[new]["tokens_per_second"], rows[old]["tokens_per_second"]
            if speed is not None and was is not None and abs(speed / was - 1) > 0.03:
                found.append(
                    Regression(
                        model=new,
                        against=old,
                        quantity="tokens_per_second",
                        value=speed,
                        before=was,
                        difference=speed - was,
                        how="numbers",
                        change="worse" if speed < was else "better",
                        text=f"{speed:.1f} output tokens/s at 8 requests, {was:.1f} in version {rows[old]['version']}",
                    )
                )
            if run.number % 7 == 0:
                found.append(
                    Regression(
                        model=new,
                        against=old,
                        quantity="maths",
                        value=0.51,
                        before=0.54,
                        difference=-0.03,
                        low=-0.05,
                        high=-0.01,
                        how="paired",
                        change="worse",
                        text="maths lost 3.0 points [1.0 to 5.0] on the same 800 items",
                    )
                )
    return found


def _aliases() -> list[Entry]:
    steps: list[tuple[Any, str, str | None, str | None, str]] = [
        ("adopt", "alias:champion", None, "1", "first version"),
        ("approve", "alias:champion", None, None, "read the flips, none matters to us"),
        ("promote", "alias:champion", "1", "5", "faster, and nothing lost"),
        ("rollback", "alias:champion", "5", "1", "answers in the wrong language"),
        ("promote", "alias:challenger", None, "9", "to be tried in shadow"),
    ]
    return [
        Entry(
            model="smollm2",
            stream=stream,
            sequence=number + 1,
            kind=kind,
            at=BEGAN + timedelta(days=number, hours=3),
            who=("ana", "build-bot")[number % 2],
            why=why,
            version_from=before,
            version_to=after,
        )
        for number, (kind, stream, before, after, why) in enumerate(steps)
    ]


def _shadow() -> list[ShadowTraffic]:
    return [
        ShadowTraffic(
            name="champion-5-beside-9",
            kind="gateway",
            model="smollm2",
            champion="5",
            candidate="9",
            pairs=2417,
            started_at=BEGAN + timedelta(days=3),
            outcome="pass",
            reason="surely no more than 2 points worse on 2,417 pairs",
            exploratory=False,
            status="http://127.0.0.1:8400/live",
        ),
        ShadowTraffic(
            name="week-2-replay",
            kind="replay",
            model="smollm2",
            champion="1",
            candidate="5",
            pairs=300,
            started_at=BEGAN + timedelta(days=1),
            outcome=None,
            reason=None,
            exploratory=None,
        ),
    ]


_PRICE = PriceShown(
    currency="USD",
    device="2 CPU threads",
    per_hour=0.09,
    source="a made-up price list",
    read_on="2026-01-01",
    made_up=True,
)
