"""In Ray's place on the path of a broker: tasks are threads of it, on one node. What `FAKE_RAY` holds happens.

`refuse`: there is no cluster. `die`: the process ends while a task works, as Ray's library ends it. `crash`: a task's
worker process dies once too often.
"""

import os
import threading
import time
from typing import Any

_BEHAVIOUR = os.environ.get("FAKE_RAY", "")


class WorkerCrashedError(Exception):
    pass


class TaskCancelledError(Exception):
    pass


class _Task:
    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.ended, self.error, self.value = threading.Event(), None, None
        threading.Thread(target=self._work, args=(function, arguments), daemon=True).start()

    def _work(self, function: Any, arguments: tuple[Any, ...]) -> None:
        if _BEHAVIOUR == "die":
            time.sleep(0.3)
            print("The GCS is gone. The program will terminate.", flush=True)
            os._exit(1)
        try:
            if _BEHAVIOUR == "crash":
                raise WorkerCrashedError("The worker died unexpectedly while executing this task.")
            self.value = function(*arguments)
        except Exception as error:
            self.error = error
        self.ended.set()


class _Remote:
    def __init__(self, function: Any) -> None:
        self._function = function

    def remote(self, *arguments: Any) -> _Task:
        return _Task(self._function, arguments)


def init(**options: Any) -> None:
    if _BEHAVIOUR == "refuse":
        raise ConnectionError(f"Could not find any running Ray instance at {options['address']}.")


def nodes() -> list[dict[str, Any]]:
    node = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Alive": True, "Resources": {"quantbench": 1.0, "CPU": 2}}
    others = [{**node, "NodeID": "b", "Alive": False}, {**node, "NodeID": "c", "Resources": {"CPU": 2}}]
    return [*others, node] if _BEHAVIOUR != "empty" else others


def remote(**options: Any) -> Any:
    assert options["resources"] in ({"quantbench": 1}, {})
    return _Remote


def wait(tasks: list[_Task], timeout: float) -> tuple[list[_Task], list[_Task]]:
    tasks[0].ended.wait(timeout)
    return (tasks, []) if tasks[0].ended.is_set() else ([], tasks)


def get(task: _Task) -> Any:
    if task.error:
        raise task.error
    return task.value


def cancel(task: _Task, force: bool = False) -> None:
    print(f"cancelled {force}", flush=True)
    task.error = TaskCancelledError()
    task.ended.set()
