"""Calls in processes: messages, results, errors, deaths and the end of the parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from ase_ws.errors import UserError
from ase_ws.jobs.pool import Call, Ended, InProcess, Lost, Processes, WorkerError

POOLS = [InProcess, lambda: Processes(2), lambda: Processes(2, {"JOBS_TEST": "1"})]


def events(pool, calls):
    """Make the calls; give what was heard, by call, in order."""
    heard = {call.id: [] for call in calls}
    for call in calls:
        pool.add(call)
    try:
        while sum(isinstance(e, Ended | Lost) for es in heard.values() for e in es) < len(calls):
            pool.wait(lambda key, event: heard[key].append(event))
    finally:
        pool.close(lambda *_: None)
    return heard


@pytest.mark.parametrize("make", POOLS, ids=["in process", "served", "spawned"])
def test_messages_come_before_the_result(make):
    heard = events(make(), [Call(k, _count_to, (k,)) for k in range(3)])
    assert heard == {k: [*range(k), Ended(k * 10)] for k in range(3)}
    assert multiprocessing.active_children() == []


def test_the_urgent_come_first_then_the_oldest():
    order = []
    pool = InProcess()
    for key, priority in (("a", 0), ("b", 1), ("c", 0), ("d", 1)):
        pool.add(Call(key, _count_to, (0,), priority))
    for _ in range(4):
        pool.wait(lambda key, _: order.append(key))
    assert order == ["b", "d", "a", "c"]


def test_a_killed_worker_is_told_and_replaced():
    heard = events(Processes(1), [Call("dead", _die, ()), Call("next", _count_to, (1,))])
    (lost,) = heard["dead"]
    assert isinstance(lost, Lost)
    assert "killed by signal 9" in lost.reason
    assert heard["next"] == [0, Ended(10)]


def test_an_error_comes_with_its_trace():
    with pytest.raises(ZeroDivisionError) as caught:
        events(Processes(1), [Call(0, _raise, (ZeroDivisionError("by nothing"),), name="a task")])
    assert isinstance(caught.value.__cause__, WorkerError)
    assert "a task" in str(caught.value.__cause__)
    assert "in _raise" in str(caught.value.__cause__)
    with pytest.raises(UserError, match="mend it"):
        events(Processes(1), [Call(0, _raise, (UserError("mend it"),))])


def test_an_error_that_cannot_travel_is_told_in_words():
    with pytest.raises(WorkerError, match="_RootedError: no way"):
        events(Processes(1), [Call(0, _raise_rooted, ())])


def test_the_environment_is_the_workers_alone(monkeypatch):
    monkeypatch.setenv("JOBS_TEST", "mine")
    heard = events(Processes(1, {"JOBS_TEST": "theirs"}), [Call(0, _variable, ("JOBS_TEST",))])
    assert heard[0] == [Ended("theirs")]
    assert os.environ["JOBS_TEST"] == "mine"


def test_waiting_has_a_limit_and_close_ends_what_runs():
    pool = Processes(1)
    pool.add(Call(0, _sleep, ()))
    pool.wait(lambda *_: None, timeout=0.1)
    (worker,) = multiprocessing.active_children()
    pool.close(lambda *_: None)
    assert not worker.is_alive()


PARENT = """
import time
from ase_ws.jobs.pool import Call, Processes

def work(emit):
    import os
    emit(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    pool = Processes(1, {})
    pool.add(Call(0, work, ()))
    while True:
        pool.wait(lambda key, pid: print(pid, flush=True))
"""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")  # noqa: PTH112
def test_workers_leave_with_a_parent_that_was_killed(tmp_path):
    """Also those that say nothing for long."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    for _ in range(200):
        if not _runs(worker):
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker is still there 10 s after its parent's death")


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class _RootedError(Exception):
    def __reduce__(self):
        raise TypeError("stays here")


def _count_to(n, emit):
    for k in range(n):
        emit(k)
    return 10 * n


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(error, _):
    raise error


def _raise_rooted(_):
    raise _RootedError("no way")


def _variable(name, _):
    return os.environ[name]


def _sleep(_):
    time.sleep(600)
