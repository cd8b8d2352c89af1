"""The journal: what is in it stays, once; what is broken is told or dropped."""

import json
import multiprocessing
import os
import signal

import pytest

from ase_ws.errors import UserError
from ase_ws.jobs.journal import Journal, read_lines


def index(record):
    return record["key"], record["value"]


def line(key, value):
    return json.dumps({"key": key, "value": value})


def test_what_was_appended_is_there_once(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path, index) as journal:
        assert journal.append(line("a", 1)) == 1
        assert journal.append(line("å", 2)) == 2
        assert journal.append(line("a", 3)) is None
        assert "b" not in journal
    with Journal(path, index) as journal:
        assert journal.entries == {"a": 1, "å": 2}
        journal.append(line("b", 4))
        found = journal.records(["b", "none", "å", "a"])
    assert [record["value"] for record in found] == [4, 2, 1]
    assert [record.record["key"] for record in read_lines(path)] == ["a", "å", "b"]
    with Journal(path, index, fresh=True) as journal:
        assert journal.entries == {}
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kept", [0, 1])
def test_a_line_that_was_cut_off_is_dropped(tmp_path, kept):
    path = tmp_path / "a.jsonl"
    whole = (line("a", 1) + "\n") * kept
    path.write_text(whole + line("b", 2)[:-3])
    assert len(list(read_lines(path))) == kept
    with Journal(path, index) as journal:
        assert len(journal.entries) == kept
        assert path.read_text() == whole


@pytest.mark.parametrize("bad", ["{", "[]", '{"key": "b"}'])
def test_a_damaged_line_is_told_and_nothing_is_changed(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    text = f"{line('a', 1)}\n{bad}\n{line('c', 3)}\n"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: not a line of a journal; burn it"):
        Journal(path, index, remedy="burn it")
    assert path.read_text() == text
    # Nothing holds the lock.
    Journal(path, index, fresh=True).close()


def test_there_is_one_writer_at_a_time(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path, index) as journal:
        journal.append(line("a", 1))
        with pytest.raises(UserError, match=r"a\.jsonl: come later"):
            Journal(path, index, fresh=True, busy="come later")
        assert path.read_text() == line("a", 1) + "\n"
    Journal(path, index).close()


def test_a_killed_writer_loses_no_line_and_gives_up_its_lock(tmp_path):
    path = tmp_path / "a.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Journal(path, index) as journal:
        assert journal.entries == {"a": 1}


def _write_and_die(path):
    journal = Journal(path, index)
    journal.append(line("a", 1))
    os.kill(os.getpid(), signal.SIGKILL)
