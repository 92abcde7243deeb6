import subprocess
import sys
from pathlib import Path

import pytest

from registry.machine_turns import MachineTurns


class LongEnough(Exception):
    pass


def no_waiting() -> None:
    raise LongEnough


def test_work_goes_on_beside_work_and_nothing_beside_who_is_alone(tmp_path: Path) -> None:
    one, other = MachineTurns(tmp_path), MachineTurns(tmp_path)
    with one.beside_others(no_waiting), other.beside_others(no_waiting):
        assert one.somebody_works()
        with pytest.raises(LongEnough), other.alone(no_waiting):
            pass
    assert not one.somebody_works()
    with one.alone(no_waiting):
        with pytest.raises(LongEnough), other.beside_others(no_waiting):
            pass
        with pytest.raises(LongEnough), other.alone(no_waiting):
            pass
    with other.beside_others(no_waiting):
        pass


def test_who_waits_to_be_alone_lets_nobody_begin_before_it(tmp_path: Path) -> None:
    one, other, third = MachineTurns(tmp_path), MachineTurns(tmp_path), MachineTurns(tmp_path)
    looks: list[bool] = []

    def on_wait() -> None:
        with pytest.raises(LongEnough), third.beside_others(no_waiting):
            pass
        looks.append(True)
        working.__exit__(None, None, None)

    working = one.beside_others(no_waiting)
    working.__enter__()
    with other.alone(on_wait):
        assert looks == [True]


def test_the_turn_of_a_killed_process_is_over(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from registry.machine_turns import MachineTurns\n"
        "with MachineTurns(pathlib.Path(sys.argv[1])).alone(lambda: None): print('alone', flush=True); input()"
    )
    argv = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"alone\n"
        with pytest.raises(LongEnough), MachineTurns(tmp_path).beside_others(no_waiting):
            pass
        holder.kill()
    with MachineTurns(tmp_path).beside_others(no_waiting):
        pass
