"""When each stage works: in the plan's order, as soon as what it waits for has ended and the machine has room."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from pipelines.execution.runner import Runner
from pipelines.planning.concurrency import Sharing, startable, waits_of
from pipelines.planning.stages import Stage
from pipelines.records.events import StageOutcome


def run_scheduled(
    stages: Sequence[Stage],
    runner: Runner,
    sharing: Callable[[], Sharing],
    on_end: Callable[[Stage, StageOutcome], StageOutcome],
) -> list[StageOutcome]:
    """Run all stages to their end; an exception, such as Ctrl-C, ends those that work before it goes on.

    Args:
        stages: Of the run.
        runner: Runs each, in a thread of its own.
        sharing: Asked before stages begin: how many share the machine is known once the checkpoint is.
        on_end: Called in this thread after each stage, one at a time; what it gives is the stage's outcome.

    Returns:
        An outcome for each stage, in the plan's order.
    """
    waits, waiting = waits_of(stages, measured_in_turn=sharing().measured_in_turn), list(stages)
    outcomes: dict[str, StageOutcome] = {}
    working: dict[Future[StageOutcome], Stage] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(stages)), thread_name_prefix="stage") as pool:
        try:
            while waiting or working:
                for stage in startable(waiting, list(working.values()), outcomes, waits, sharing()):
                    waiting.remove(stage)
                    working[pool.submit(runner.run, stage)] = stage
                ended, _ = wait(working, return_when=FIRST_COMPLETED)
                for future in [one for one in working if one in ended]:
                    stage = working.pop(future)
                    outcomes[stage.name] = on_end(stage, future.result())
        except BaseException:
            runner.give_up()
            raise
    return [outcomes[stage.name] for stage in stages]
