"""YAML from users: every mistake is one line, found within a second, and nothing is executed."""

import sys
import time

import pytest

from ase_ws.cli.app import main
from ase_ws.errors import UserError
from ase_ws.files.yaml import MOST_DEPTH, MOST_VALUES, parse_yaml, read_yaml
from ase_ws.stability.campaign import read_config
from ase_ws.training.config_files import load_config

BAD = {
    "a date of the 99th month": b"seed: 2020-99-99\n",
    "a number of 5000 digits": b"seed: " + b"9" * 5000 + b"\n",
    "not a bool": b"seed: !!bool abc\n",
    "not an int": b"seed: !!int abc\n",
    "an int of nothing": b"seed: !!int ''\n",
    "not a timestamp": b"seed: !!timestamp x\n",
    "a timestamp as a key": b"model:\n  !!timestamp x: 5.0\n",
    "not base 64": b"seed: !!binary '%'\n",
    "a date beyond the calendar": b"seed: 2020-01-01T00:00:00+99:99\n",
    "deep": b"[" * 3000 + b"]" * 3000,
    "deep mappings": b"{a: " * 500 + b"1" + b"}" * 500,
    "aliases of aliases": b"a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (k, k, b",".join([b"*a%d" % (k - 1)] * 9)) for k in range(1, 9)),  # noqa: E501
    "an alias of itself": b"a: &a [*a]\n",
    "an alias of nothing": b"a: *b\n",
    "a list as a key": b"? [1, 2]\n: 3\n",
    "twice": b"seed: 1\nps: 2\nseed: 3\n",
    "code": b"seed: !!python/object/apply:os.system ['true']\n",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "latin-1": "name: Molekül\n".encode("latin-1"),
    "bytes": bytes(range(256)),
    "a number as a key": b"1: 2\n",
    "nothing as a key": b"null: 2\n",
    "a list": b"- 1\n",
    "large": b"# " + b"x" * 2_000_000,
    "UTF-16 cut in half": "seed: 1\n".encode("utf-16")[:-1],
}  # fmt: skip


@pytest.mark.wall_clock
@pytest.mark.parametrize("case", ["large", "aliases of aliases", "deep"])
def test_a_mistake_is_found_at_once(case, tmp_path):
    path = tmp_path / "it.yaml"
    path.write_bytes(BAD[case])
    started = time.perf_counter()
    with pytest.raises(UserError):
        read_yaml(path, what="campaign file")
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["campaign", "finetune"])
def test_a_mistake_is_one_line(case, command, tmp_path, monkeypatch, capsys):
    path = tmp_path / "it.yaml"
    path.write_bytes(BAD[case])
    out = ["--out", str(tmp_path / "out")]
    rest = ["campaign", str(path)] if command == "campaign" else ["finetune", "--config", str(path)]
    monkeypatch.setattr(sys, "argv", ["ase-ws", *rest, *out])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error:"), told
    assert "\n" not in told
    assert len(told) < 1000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("read", [read_config, load_config, lambda p: read_yaml(p, what="file")])
def test_what_is_no_file_is_said(read, tmp_path):
    for path in (tmp_path, tmp_path / "nothing.yaml"):
        with pytest.raises(UserError, match="no such"):
            read(path)


def test_what_is_right_passes(tmp_path):
    path = tmp_path / "it.yaml"
    text = "a: &x {k: 1, l: [2, 3]}\nb: *x\nc: {<<: *x, m: 4}\nd: 'é'\n"
    wanted = {
        "a": {"k": 1, "l": [2, 3]}, "b": {"k": 1, "l": [2, 3]},
        "c": {"k": 1, "l": [2, 3], "m": 4}, "d": "é",
    }  # fmt: skip
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(text, encoding=encoding)
        assert read_yaml(path, what="file") == wanted
    path.write_text("")
    assert read_yaml(path, what="file") is None


def test_the_bounds_are_where_they_are_said_to_be(tmp_path):
    path = tmp_path / "it.yaml"
    for levels, fits in ((MOST_DEPTH - 1, True), (MOST_DEPTH, False)):
        path.write_text("[" * levels + "]" * levels)
        if fits:
            read_yaml(path, what="file")
        else:
            with pytest.raises(UserError, match="deeper than"):
                read_yaml(path, what="file")
    path.write_text("[" + "1," * (MOST_VALUES + 1) + "]")
    with pytest.raises(UserError, match="more than"):
        read_yaml(path, what="file")


@pytest.mark.parametrize("key", ["NO", "on", "1", "1.5", "2024-01-01", "~"])
def test_names_that_yaml_reads_as_something_else(key):
    with pytest.raises(UserError, match=r"a name is read as .*quotation marks"):
        parse_yaml(f"structures:\n  - {{{key}: a.xyz}}\n", "campaign.yaml")
    assert parse_yaml(f"structures: {{'{key}': a.xyz}}", "") == {"structures": {key: "a.xyz"}}
