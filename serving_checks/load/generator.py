"""The load generator's process: imports, waits for the server's address, runs all load tests and writes the outcome.

python -P -m serving_checks.load.generator <job file>
"""

import sys
import time
import traceback
import urllib.error
from contextlib import suppress
from pathlib import Path

from configs.errors import QuantbenchError, RequestError, StageError
from registry.contracts.serving import LoadPoint, RateSearch
from registry.explain import explanation_of
from registry.files import write_text_atomically
from serving_checks.engines.table import engine_of
from serving_checks.load.adapter import Load, VllmGenerator
from serving_checks.load.config import Concurrent, LoadConfig, MixName, Poisson, Sweep, Synchronous
from serving_checks.load.job import LoadFailure, LoadJob, LoadOutcome, LoadProgress, LoadStart
from serving_checks.load.points import good_share, load_point
from serving_checks.load.prompts import PromptSource, read_text
from serving_checks.load.requests import RequestRow, write_rows
from serving_checks.load.search import search_rate
from serving_checks.load.watch import ServerWatch, await_idle
from serving_checks.readings.energy import EnergyTold, energy_meter
from serving_checks.transport.http_json import get_text, refused_with

_POLL_SECONDS = 0.2
_IDLE_SECONDS = 30.0
_OPEN_LOOP_WARMUP = 8


class LoadTests:
    """All load tests of one server, one after the other.

    Args:
        job: What to send.
        start: Where to.
        source: Of prompts, with the served model's tokenizer.
        generator: Sends them.
    """

    def __init__(self, job: LoadJob, start: LoadStart, source: PromptSource, generator: VllmGenerator) -> None:
        self._config, self._engine, self._progress_file = job.config, engine_of(job.serving), job.progress_file
        self._endpoint, self._requests_file = start.endpoint, start.requests_file
        self._source, self._generator = source, generator
        self._meter = energy_meter(start.metered)
        self._energy_notes = [self._meter.note] if self._meter.note else []
        self._rows: list[RequestRow] = []
        self.points: list[LoadPoint] = []
        self.rate_search: RateSearch | None = None

    @property
    def energy(self) -> EnergyTold:
        """What counted the energy of `points`, and why it did not."""
        return EnergyTold(source=self._meter.source, notes=list(dict.fromkeys(self._energy_notes)))

    def run(self) -> None:
        """Run every profile on every prompt mix; what was measured so far stays in `points` and in the Parquet file.

        Raises:
            RequestError: The text does not give as many prompts, or the server refuses what the config has it sent.
            StageError: The server died, or completed no request of a load test.
        """
        mixes = self._config.prompts.mixes
        for load in loads(self._config):
            self._measure(load)
        for profile in self._config.profiles:
            if isinstance(profile, Sweep):
                self.rate_search = self._search(profile, mixes[0])

    def _search(self, sweep: Sweep, mix: MixName) -> RateSearch:
        slo = self._config.slo
        assert slo is not None  # noqa: S101 - the config's validator says so
        floor, ceiling = (
            self._measure(Load(mix, concurrency, None)).requests_per_second
            for concurrency in (1, sweep.ceiling_concurrency)
        )

        def keeps_slo(rate: float) -> bool:
            point = self._measure(Load(mix, None, rate))
            rows = [row for row in self._rows if row.point == len(self.points) - 1]
            return good_share(rows, slo) >= sweep.share and not point.saturated and point.invalid is None

        return search_rate(sweep, slo, floor, ceiling, keeps_slo)

    def _measure(self, load: Load) -> LoadPoint:
        config, place = self._config, len(self.points)
        progress = LoadProgress(done=place, most=most_loads(config))
        write_text_atomically(self._progress_file, progress.model_dump_json())
        prompts = self._source.mix(config.prompts, load.mix, config.requests)
        self._warm_up(load)
        self._reset_caches()
        print(f"load test {place + 1}: {load}: {len(prompts)} requests", flush=True)
        with ServerWatch(self._endpoint, self._engine.metrics) as watch, self._meter.measuring() as energy:
            sent = self._generator.send(
                self._endpoint, load, prompts, config.output_tokens, seed=config.seed + place, point=place
            )
        self._rows += sent.rows
        write_rows(self._requests_file, self._rows)
        completed = [row for row in sent.rows if row.outcome == "ok"]
        errors = [row.error for row in sent.rows if row.error]
        if errors and not self._answers():
            raise StageError(
                f"the server died during a load test ({load}): {len(completed)} of {len(prompts)} requests completed, "
                f"the first error was {errors[0]!r}",
                remedy="look into the server's log for why; lower the load if it ran out of memory",
            )
        if not completed:
            raise self._none_completed(load, errors[0])
        counts = watch.counts(sum(row.prompt_tokens for row in completed), sum(row.output_tokens for row in completed))
        used = energy()
        if used.fault:
            self._energy_notes.append(f"{load}: {used.fault}")
        point = load_point(load, sent, config.output_tokens, counts, config.slo, used.joules)
        self.points.append(point)
        print(
            f"load test {place + 1}: {len(completed)} of {len(prompts)} completed in {sent.duration_seconds:.1f} s, "
            f"{point.output_tokens_per_second:.1f} tokens/s",
            flush=True,
        )
        return point

    def _none_completed(self, load: Load, error: str) -> QuantbenchError:
        what = f"no request completed ({load}); the first error was {error!r}"
        status = refused_with(error)
        mended = self._engine.remedy_for(status) if status else None
        if mended:
            return RequestError(what, remedy=mended)
        remedy = "look into the server's log for what it answered, or raise `request_timeout_seconds`"
        return StageError(what, remedy=remedy)

    def _warm_up(self, load: Load) -> None:
        """Send what follows once, in short: each prompt length, as many at a time as there will be."""
        config = self._config
        if config.warmup_output_tokens:
            lengths = config.prompts.lengths(load.mix)
            concurrency = load.concurrency or min(config.requests, _OPEN_LOOP_WARMUP)
            prompts = [
                self._source.prompt(lengths[place % len(lengths)]) for place in range(max(concurrency, len(lengths)))
            ]
            closed = Load(load.mix, concurrency, None)
            self._generator.send(self._endpoint, closed, prompts, config.warmup_output_tokens)

    def _reset_caches(self) -> None:
        """Empty the caches, where the engine lets them be emptied from outside."""
        await_idle(self._endpoint, self._engine.metrics, _IDLE_SECONDS)
        # Prompts never repeat, so a cache that is kept holds nothing that they could use.
        with suppress(OSError):
            self._engine.reset_caches(self._endpoint.base_url)

    def _answers(self) -> bool:
        try:
            get_text(f"{self._endpoint.base_url}/v1/models", api_key_variable=self._endpoint.api_key_variable)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


def loads(config: LoadConfig) -> list[Load]:
    """The load tests of a config in its order, those of a sweep left out."""
    loads = []
    for profile in config.profiles:
        for mix in config.prompts.mixes:
            if isinstance(profile, Synchronous):
                loads.append(Load(mix, 1, None))
            elif isinstance(profile, Concurrent):
                loads += [Load(mix, level, None) for level in profile.levels]
            elif isinstance(profile, Poisson):
                loads += [Load(mix, None, rate) for rate in profile.requests_per_second]
    return loads


def most_loads(config: LoadConfig) -> int:
    """How many load tests a config asks for; a sweep may be over sooner."""
    sweeps = [profile for profile in config.profiles if isinstance(profile, Sweep)]
    return len(loads(config)) + sum(2 + sweep.steps for sweep in sweeps)


def main(job_file: Path) -> None:
    """Import, wait for the endpoint, test, write the outcome."""
    from transformers import AutoTokenizer

    job = LoadJob.model_validate_json(job_file.read_text())
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer_dir)
    source = PromptSource(tokenizer, read_text(job.config.prompts.file), job.config.seed)
    engine = engine_of(job.serving)
    fields = {**engine.greedy, **engine.fixed_length}
    generator = VllmGenerator(tokenizer, job.config.request_timeout_seconds, fields)
    while not job.start_file.exists():
        time.sleep(_POLL_SECONDS)
    start = LoadStart.model_validate_json(job.start_file.read_text())
    tests = LoadTests(job, start, source, generator)
    failure = None
    try:
        tests.run()
    except Exception as error:
        traceback.print_exc()
        told = explanation_of(error, "load test", job.outcome_file.parent)
        failure = LoadFailure(
            what=told.what, remedy=told.remedy, bad_request=isinstance(told, RequestError), blame=told.blame
        )
    outcome = LoadOutcome(points=tests.points, rate_search=tests.rate_search, energy=tests.energy, failure=failure)
    write_text_atomically(job.outcome_file, outcome.model_dump_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
