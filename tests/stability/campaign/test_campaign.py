"""Campaigns: their file, their journal, and that no death of anyone loses or repeats a replica."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read, write

from ase_ws.errors import UserError
from ase_ws.potentials.files import save_potential
from ase_ws.potentials.mace.upstream import export_upstream
from ase_ws.stability import check_stability
from ase_ws.stability.campaign import make_config, read_config, run_campaign
from ase_ws.stability.campaign.inputs import load_campaign
from ase_ws.stability.campaign.journal import Journal
from ase_ws.stability.campaign.records import (
    atoms_from_dict,
    atoms_to_dict,
    preparation_from_dict,
    preparation_to_dict,
)
from ase_ws.stability.campaign.single import check_stability_on_dask
from ase_ws.stability.campaign.summary import summarise
from ase_ws.stability.campaign.units import chunks
from ase_ws.testing import tiny_mace

#: Forces so weak that atoms fly where their velocities take them: at 5 K all live, at 300 K a
#: bond is gone within some 0.05 ps.
WEAK = {"num_interactions": 1, "correlation": 1, "scale": (1e-3,)}


BASIC = {
    "models": ["weak.safetensors"],
    "structures": ["water.xyz"],
    "temperatures": [5, 300],
    "replicas": 3,
    "ps": 0.1,
    "relax_steps": 0,
    "min_ps": 0.0,
    "blame": False,
}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    save_potential(tiny_mace(**WEAK), folder / "weak.safetensors")
    save_potential(tiny_mace(seed=1, **WEAK), folder / "other.safetensors")
    write(folder / "water.xyz", molecule("H2O"))
    write(folder / "two.xyz", [molecule("H2O"), molecule("CH3OH")])
    return folder


@pytest.fixture
def campaign(inputs, tmp_path):
    """Write a campaign beside the inputs; returns its path."""

    def make(**changes):
        tree = {**BASIC, **changes}
        path = inputs / f"{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
        return path

    return make


def journal_of(out):
    """All records of the journal by their key; fails where one is there twice."""
    records = [json.loads(line) for line in (out / "replicas.jsonl").read_text().splitlines()]
    keys = [
        (r["model"], r["structure"], r["replica"]["temperature"], r["replica"]["replica"])
        for r in records
    ]
    assert max(Counter(keys).values()) == 1
    return dict(zip(keys, records, strict=True))


def n_lines(out):
    path = out / "replicas.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def without_clock(record):
    """A record of the journal without what depends on the speed of the machine."""
    replica = {key: v for key, v in record["replica"].items() if key != "ns_per_day"}
    return {**record, "replica": replica}


def assert_same_runs(out, reference):
    """Same replicas with the same end; numbers to rounding, as batches differ."""
    assert out.keys() == reference.keys()
    for key, record in out.items():
        ours, theirs = record["replica"], reference[key]["replica"]
        assert ours["seed"] == theirs["seed"]
        assert ours["simulated_ps"] == theirs["simulated_ps"]
        for one, other in zip(ours["checks"], theirs["checks"], strict=True):
            assert (one["name"], one["status"]) == (other["name"], other["status"])
        for name, trace in ours["traces"].items():
            expected = np.array(theirs["traces"][name], dtype=float)
            np.testing.assert_allclose(np.array(trace, dtype=float), expected, rtol=1e-6, atol=1e-8)
        assert len(record["frames"]) == len(reference[key]["frames"])


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ps": None}, "field 'ps': Field required"),
        ({"ps": -1}, "field 'ps'"),
        ({"ps": float("nan")}, "field 'ps'"),
        ({"replica": 2}, "field 'replica': no such setting; did you mean 'replicas'?"),
        ({"ensemble": "nvu"}, "field 'ensemble'"),
        ({"temperatures": []}, "field 'temperatures'"),
        ({"temperatures": [300, -5]}, "field 'temperatures.1'"),
        ({"temperatures": [300, 300]}, "twice"),
        ({"models": {}}, "field 'models'"),
        ({"models": {"../up": "weak.safetensors"}}, "becomes a folder"),
        ({"models": ["a/m.safetensors", "b/m.safetensors"]}, "two files are called 'm'"),
        ({"structures": [1]}, "expected names of files"),
        ({"compare": "nobody"}, "'nobody' is none of the models"),
    ],
)
def test_wrong_fields_are_named(campaign, change, told):
    path = campaign(**change)
    with pytest.raises(UserError, match="yaml") as error:
        read_config(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("heads", "told"), [({}, "several heads, and none is named"), ({"two": "pbe"}, "no head 'pbe'")]
)
def test_a_head_is_named_in_the_file(heads, told, campaign, inputs):
    """Nothing that only other commands have is advised."""
    two = {"heads": ("cc", "dft"), "scale": (1e-3, 1e-3), "shift": (0.0, 0.0)}
    export_upstream(tiny_mace(**{**WEAK, **two}, head="cc"), inputs / "two.model")
    config = read_config(campaign(models={"two": "two.model"}, heads=heads))
    with pytest.raises(UserError) as caught:
        load_campaign(config)
    (line,) = str(caught.value).splitlines()
    assert line.endswith(
        f"two.model: model 'two' has {told}: name one of 'cc', 'dft' in the file of the campaign, "
        "as heads: {two: cc}"
    )


def test_unreadable_files_are_named(campaign, tmp_path):
    broken = tmp_path / "broken.yaml"
    for text, told in (
        ("models: [", "not valid YAML"),
        ("- 1", "expected fields"),
        ("models: !!python/object/apply:os.system [exit]", "not valid YAML"),
    ):
        broken.write_text(text)
        with pytest.raises(UserError, match=told):
            read_config(broken)
    with pytest.raises(UserError, match="no such campaign file"):
        read_config(tmp_path / "none.yaml")
    for change, told in (
        ({"models": ["gone.safetensors"]}, r"gone.safetensors: no such model file"),
        ({"structures": ["gone.xyz"]}, r"gone.xyz: no such file"),
        ({"calibrate": "gone.xyz"}, r"gone.xyz: no such file"),
    ):
        with pytest.raises(UserError, match=told):
            load_campaign(read_config(campaign(**change)))


def test_names_and_selections(campaign, inputs):
    config = read_config(
        campaign(structures=["two.xyz", "two.xyz@0"], models={"a": "weak.safetensors"})
    )
    assert config.models == {"a": str(inputs / "weak.safetensors")}
    pairs = load_campaign(config).pairs
    assert {key: len(pair.atoms) for key, pair in pairs.items()} == {
        ("a", "two"): 6,
        ("a", "two_0"): 3,
    }
    sliced = load_campaign(read_config(campaign(structures={"s": "two.xyz@:"})))
    assert [key[1] for key in sliced.pairs] == ["s_0", "s_1"]


def test_unknown_element_is_told_before_anything_runs(campaign, inputs, tmp_path):
    write(inputs / "silane.xyz", molecule("SiH4"))
    with pytest.raises(UserError, match="Si"):
        run_campaign(campaign(structures=["water.xyz", "silane.xyz"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_compared_model_comes_first_and_seeds_are_shared(campaign):
    models = {"tuned": "other.safetensors", "base": "weak.safetensors"}
    pairs = load_campaign(read_config(campaign(models=models, compare="base"))).pairs
    assert [key[0] for key in pairs] == ["base", "tuned"]
    base, tuned = pairs.values()
    assert base.jobs == tuned.jobs


def test_chunks(campaign):
    (pair,) = load_campaign(read_config(campaign(replicas=8))).pairs.values()
    one = chunks(pair, pair.jobs, n_open=16, workers=1)
    assert [len(chunk) for chunk in one] == [16]
    assert [len(chunk) for chunk in chunks(pair, pair.jobs, 16, 3)] == [3, 3, 3, 3, 3, 1]
    assert [len(c) for c in chunks(pair, pair.jobs[:5], 500, 2)] == [5]
    (npt,) = load_campaign(read_config(campaign(ensemble="npt"))).pairs.values()
    assert {len(chunk) for chunk in chunks(npt, npt.jobs, 6, 1)} == {1}
    assert one[0] == pair.jobs


# ---------------------------------------------------------------- records and journal


def test_atoms_come_back_to_the_last_bit():
    atoms = molecule("CH3OH", cell=[5, 6, 7.1], pbc=(True, False, True))
    atoms.rattle(0.1, seed=3)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(6, 3)))
    atoms.set_constraint(FixAtoms([0, 2]))
    atoms.info["charge"] = 1
    back = atoms_from_dict(json.loads(json.dumps(atoms_to_dict(atoms), allow_nan=False)))
    for name in ("numbers", "positions", "momenta"):
        assert np.array_equal(back.arrays[name], atoms.arrays[name])
    assert np.array_equal(back.cell.array, atoms.cell.array)
    assert back.pbc.tolist() == [True, False, True]
    assert back.info == {"charge": 1}
    assert back.constraints[0].index.tolist() == [0, 2]


def test_nan_is_null_in_the_record_and_nan_again_after_it():
    atoms = Atoms("H2", [[0, 0, 0], [np.nan, np.inf, 1.0]])
    text = json.dumps(atoms_to_dict(atoms), allow_nan=False)
    assert "null" in text
    back = atoms_from_dict(json.loads(text))
    assert np.isnan(back.positions[1, :2]).all()
    assert back.positions[1, 2] == 1.0


def test_preparation_comes_back(campaign):
    (pair,) = load_campaign(read_config(campaign())).pairs.values()
    preparation = pair.trial(pair.calculator()).prepare()
    record = json.loads(json.dumps(preparation_to_dict(preparation), allow_nan=False))
    back = preparation_from_dict(record)
    assert np.array_equal(back.begin.positions, preparation.begin.positions)
    assert back.findings == preparation.findings
    assert preparation_to_dict(back) == record


def test_half_written_line_is_dropped_and_written_again(campaign, tmp_path):
    file, out = campaign(chunk=1), tmp_path / "out"
    run_campaign(file, out, workers=1)
    whole = journal_of(out)
    path = out / "replicas.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:100])
    with Journal(path) as journal:
        assert len(journal.entries) == 3
    assert path.read_bytes() == b"".join(lines[:3])
    run_campaign(file, out, workers=1, resume=True)
    again = journal_of(out)
    # One replica in a unit: to the last bit, failing frames included.
    assert {key: without_clock(r) for key, r in again.items()} == {
        key: without_clock(r) for key, r in whole.items()
    }


def test_damage_in_the_middle_is_told_with_its_line(tmp_path):
    path = tmp_path / "replicas.jsonl"
    path.write_text('{"model": \n{"model": 1}\n')
    with pytest.raises(UserError, match="line 1"):
        Journal(path)


def test_a_damaged_campaign_can_be_overwritten(campaign, tmp_path):
    file, out = campaign(replicas=1, temperatures=[5]), tmp_path / "out"
    out.mkdir()
    (out / "campaign.json").write_text("{")
    (out / "replicas.jsonl").write_text("nonsense\n")
    with pytest.raises(UserError, match=r"campaign\.json: is damaged"):
        run_campaign(file, out, resume=True, workers=1)
    run_campaign(file, out, overwrite=True, workers=1)
    assert len(journal_of(out)) == 1


def test_a_known_replica_is_not_written_twice(campaign, tmp_path):
    out = tmp_path / "out"
    run_campaign(campaign(replicas=1, temperatures=[5]), out, workers=1)
    before = (out / "replicas.jsonl").read_bytes()
    with Journal(out / "replicas.jsonl") as journal:
        assert journal.append(before.decode().strip()) is None
    assert (out / "replicas.jsonl").read_bytes() == before


def test_two_writers_are_kept_apart(campaign, tmp_path):
    out = tmp_path / "out"
    file = campaign(replicas=1)
    run_campaign(file, out, workers=1)
    with (
        Journal(out / "replicas.jsonl"),
        pytest.raises(UserError, match="another process is running"),
    ):
        run_campaign(file, out, workers=1, resume=True)
    with (
        Journal(out / "replicas.jsonl"),
        pytest.raises(UserError, match="another process is running"),
    ):
        run_campaign(file, out, workers=1, overwrite=True)
    assert n_lines(out) == 2
    run_campaign(file, out, workers=1, resume=True)


def test_changed_campaign_is_not_resumed(campaign, tmp_path):
    out = tmp_path / "out"
    run_campaign(campaign(replicas=1, temperatures=[5]), out, workers=1)
    for change, told in (
        ({"ps": 0.2}, "'ps' was 0.1, now it is 0.2"),
        ({"seed": 1}, "'seed' was 0"),
        ({"temperatures": [5, 6]}, "'temperatures' was"),
        ({"structures": ["water.xyz", "two.xyz"]}, "structure 'two' is new"),
        ({"models": {"weak": "other.safetensors"}}, "file of the model 'weak' has changed"),
    ):
        tree = {"replicas": 1, "temperatures": [5], **change}
        with pytest.raises(UserError, match=told):
            run_campaign(campaign(**tree), out, resume=True)
    # What does not matter may change.
    run_campaign(campaign(replicas=1, temperatures=5.0, chunk=7), out, resume=True)


def test_a_folder_with_something_in_it(campaign, tmp_path):
    file, out = campaign(replicas=1, temperatures=[5]), tmp_path / "out"
    out.mkdir()
    (out / "replicas.jsonl").write_text("")  # of one that died before it had begun
    run_campaign(file, out, resume=True)
    (out / "weak" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="--resume to go on"):
        run_campaign(file, out)
    with pytest.raises(UserError, match="exclude"):
        run_campaign(file, out, resume=True, overwrite=True)
    run_campaign(campaign(replicas=2, temperatures=[5]), out, overwrite=True, workers=1)
    assert len(journal_of(out)) == 2
    assert (out / "weak" / "mine.txt").read_text() == "keep"
    other = tmp_path / "other"
    other.mkdir()
    (other / "x").write_text("")
    with pytest.raises(UserError, match="no campaign in this folder"):
        run_campaign(file, other, resume=True)


# ---------------------------------------------------------------- results


def test_one_pair_is_what_check_stability_says(campaign, tmp_path, inputs):
    """Same seeds, same verdict, same replicas; and the report has the same fields."""
    out = tmp_path / "out"
    models = {"base": "weak.safetensors", "tuned": "other.safetensors"}
    changes = {"models": models, "compare": "base", "calibrate": "train.xyz", "replicas": 2}
    frames = [molecule("H2O") for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=k)
    write(inputs / "train.xyz", frames)
    summary = run_campaign(campaign(**changes, blame=True, ps=0.06), out, workers=1)
    assert summary["verdict"] == "unstable"
    assert summary["complete"]
    report = json.loads((out / "tuned" / "water" / "stability.json").read_text())
    base, tuned = load_campaign(read_config(campaign(**changes))).pairs.values()
    expected = check_stability(
        tuned.atoms, tuned.calculator(), temperature=[5, 300], replicas=2, ps=0.06, relax_steps=0,
        min_ps=0.0, compare=base.calculator(), compare_name="base", name="tuned",
        calibration=tuned.calibration,
    ).to_dict()  # fmt: skip
    assert report.keys() == expected.keys()
    alone = {"budget": None, "left_out": []}
    assert {**report["settings"], **alone} == json.loads(json.dumps(expected["settings"]))
    for name in ("verdict", "reason", "name", "blame", "calibration", "failed_replicas"):
        assert report[name] == expected[name], name
    assert report["blame"]["cause"] == "model"
    assert [r["seed"] for r in report["replicas"]] == [r["seed"] for r in expected["replicas"]]
    assert report["comparison"].keys() == expected["comparison"].keys()
    assert report["comparison"]["failed_replicas"] == 2
    assert report["comparison"]["name"] == "base"
    assert report["failing_frame"]["symbols"] == ["O", "H", "H"]
    base_report = json.loads((out / "base" / "water" / "stability.json").read_text())
    assert base_report["comparison"] is None
    candidates = read(out / "tuned" / "water" / "candidates.xyz", ":")
    assert {c.info["role"] for c in candidates} >= {"before", "failing"}
    assert json.loads((out / "summary.json").read_text()) == summary
    assert [(row["model"], row["verdict"]) for row in summary["rows"]] == [
        ("base", "unstable"),
        ("tuned", "unstable"),
    ]


def test_failed_relaxation_runs_nothing_and_is_reported(campaign, inputs, tmp_path):
    write(inputs / "crushed.xyz", Atoms("OH", [[0, 0, 0], [0, 0, 0.1]]))
    out = tmp_path / "out"
    file = campaign(structures=["crushed.xyz", "water.xyz"], temperatures=[5], relax_steps=1)
    summary = run_campaign(file, out, workers=1)
    crushed, water = summary["rows"]
    assert (crushed["verdict"], crushed["replicas"]) == ("unstable", 0)
    assert crushed["first_failure"]["check"] == "relaxation"
    assert water["replicas"] == 3
    assert run_campaign(file, out, workers=1, resume=True) == summary


def test_verdict_of_a_campaign():
    def verdict(*verdicts, n=None):
        rows = [
            {"verdict": v, "replicas": 1, "failed_replicas": 0, "total_ps": 1.0} for v in verdicts
        ]
        return summarise(rows, len(rows) if n is None else n)["verdict"]

    assert verdict("stable", "stable") == "stable"
    assert verdict("stable", "inconclusive") == "inconclusive"
    assert verdict("stable", "inconclusive", "unstable") == "unstable"
    assert verdict("stable", n=2) == "inconclusive"


def test_command_line(campaign, tmp_path, cli):
    # Slow enough to stay together for the 0.5 ps that the drift needs.
    slow = {"temperatures": [0.5], "ps": 0.5, "timestep": 2.5, "replicas": 2}
    file, out = campaign(**slow), tmp_path / "out"
    code, text, err = cli("campaign", file, "--out", out, "--workers", 1)
    assert code == 0, text + err
    assert "stable" in text
    assert "water" in text
    code, _, err = cli("campaign", file, "--out", out)
    assert code == 2
    assert "--resume" in err
    code, text, err = cli(
        "campaign", file, "--out", out, "--resume", "--quiet", "--json", tmp_path / "s.json"
    )
    assert (code, text, err) == (0, "", "")
    assert json.loads((tmp_path / "s.json").read_text())["verdict"] == "stable"
    code, text, err = cli("campaign", campaign(), "--out", out, "--overwrite", "--workers", 1)
    assert code == 3
    assert "3 of 3" in text
    code, _, err = cli("campaign", campaign(seed=1), "--out", out, "--resume")
    assert code == 2
    assert "'seed' was 0, now it is 1" in err
    few = campaign(temperatures=[5], replicas=1)
    assert cli("campaign", few, "--out", tmp_path / "few", "--workers", 1)[0] == 1
    code, _, err = cli("campaign", file, "--out", tmp_path / "d", "--scheduler", "tcp://[bad")
    assert code == 2
    assert "no Dask scheduler answers" in err


def test_interrupt_says_how_to_go_on(campaign, tmp_path, cli, monkeypatch):
    from ase_ws.stability.campaign import run

    class Impatient(run.InProcess):
        def wait(self, handle):
            def handle_one(task_id, event):
                handle(task_id, event)
                if isinstance(event, run.Replica):
                    raise KeyboardInterrupt

            super().wait(handle_one)

    file, out = campaign(chunk=1), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(run, "InProcess", Impatient)
        code, _, err = cli("campaign", file, "--out", out, "--workers", 1)
    assert code == 130
    assert f"ase-ws campaign {file} --out {out} --workers 1 --resume" in err
    assert len(journal_of(out)) == 1
    assert cli("campaign", file, "--out", out, "--workers", 1, "--resume")[0] == 3
    assert len(journal_of(out)) == 6


def test_a_full_disk_is_told_as_such(campaign, tmp_path, monkeypatch):
    """The runs must not take it for a failure of the calculator and go on."""

    def full(self, line):
        raise OSError("no space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(OSError, match="no space left"):
        run_campaign(campaign(), tmp_path / "out", workers=1)
    assert n_lines(tmp_path / "out") == 0


# ---------------------------------------------------------------- deaths

#: Some live to the end and some do not, and none ends at once.
MORTAL = {"replicas": 6, "ps": 0.15, "chunk": 3}


@pytest.fixture(scope="session")
def undisturbed(inputs, tmp_path_factory):
    """Folder and summary of the mortal campaign where nobody is killed."""
    out = tmp_path_factory.mktemp("undisturbed")
    file = inputs / "undisturbed.yaml"
    file.write_text(yaml.safe_dump({**BASIC, **MORTAL}))
    return out, run_campaign(file, out, workers=1)


def assert_as_undisturbed(out, summary, undisturbed):
    reference, expected = undisturbed
    assert_same_runs(journal_of(out), journal_of(reference))
    for row, other in zip(summary["rows"], expected["rows"], strict=True):
        assert row["verdict"] == other["verdict"]
        assert row["failed_replicas"] == other["failed_replicas"]
    begin = "weak/water/preparation.json"
    assert (out / begin).read_bytes() == (reference / begin).read_bytes()


def _campaign_process(file, out):
    import torch

    torch.set_num_threads(1)
    run_campaign(file, out, workers=1, resume=True)


def _kill_when(process, ready):
    while process.is_alive() and not ready():
        time.sleep(0.01)
    process.kill()
    process.join()


def test_killed_process_loses_and_repeats_nothing(campaign, tmp_path, undisturbed):
    file, out = campaign(**MORTAL), tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["ase_ws.stability.campaign.local", "ase_ws.potentials.mace.model"]
    )
    rng = random.Random(7)
    survived = {}
    for _ in range(3):
        process = context.Process(target=_campaign_process, args=(file, out))
        process.start()
        before, more = n_lines(out), rng.randint(1, 2)
        _kill_when(process, lambda b=before, m=more: n_lines(out) >= b + m)
        time.sleep(rng.uniform(0, 0.05))
        now = journal_of(out) if n_lines(out) else {}
        assert survived.items() <= now.items()
        survived = now
    assert 3 <= len(survived) < 12
    summary = run_campaign(file, out, workers=1, resume=True)
    final = journal_of(out)
    assert survived.items() <= final.items()
    assert_as_undisturbed(out, summary, undisturbed)


class _Killer:
    """Watches a campaign, and kills once when so many replicas are done."""

    def __init__(self, after, victims):
        self.after, self.victims = after, victims
        self.killed_at, self.repeated = None, 0

    def __call__(self, standing):
        self.repeated = standing.repeated
        if self.killed_at is None and standing.done >= self.after:
            self.killed_at = standing.done
            os.kill(random.Random(3).choice(self.victims()), signal.SIGKILL)


def test_killed_worker_process_is_replaced(campaign, tmp_path, undisturbed):
    file, out = campaign(**MORTAL), tmp_path / "out"
    killer = _Killer(2, lambda: sorted(p.pid for p in multiprocessing.active_children()))
    summary = run_campaign(file, out, workers=2, watch=killer)
    assert 2 <= killer.killed_at < 12
    assert killer.repeated == 0
    assert_as_undisturbed(out, summary, undisturbed)
    assert multiprocessing.active_children() == []


def test_worker_that_always_dies_is_given_up(campaign, tmp_path):
    def kill_all(standing):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(UserError, match=r"5 workers in a row have died.*signal 9"):
        run_campaign(
            campaign(replicas=2, ps=5.0, temperatures=[5]), tmp_path / "out", workers=2,
            watch=kill_all,
        )  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


def busy_workers(cluster):
    """Processes of the workers that hold the result of a unit; else of those that are at one."""
    states = list(cluster.scheduler.workers.values())
    holders = [state for state in states if state.has_what]
    at_work = [state for state in states if state.processing]
    return sorted(cluster.workers[state.name].process.pid for state in holders or at_work)


@pytest.mark.parametrize("after", [2, 3], ids=["in a unit", "at the end of a unit"])
def test_killed_dask_worker_loses_and_repeats_nothing(
    campaign, tmp_path, cluster, undisturbed, after
):
    """Also where a unit is done but its result, on which Dask insists, has died with the worker."""
    file, out = campaign(**MORTAL), tmp_path / "out"
    killer = _Killer(after, lambda: busy_workers(cluster))
    summary = run_campaign(file, out, scheduler=cluster.scheduler_address, watch=killer)
    assert after <= killer.killed_at < 12
    assert killer.repeated == 0
    assert_as_undisturbed(out, summary, undisturbed)


def test_one_model_and_one_structure_on_dask(inputs, tmp_path, cluster):
    report = check_stability_on_dask(
        inputs / "weak.safetensors", inputs / "water.xyz", scheduler=cluster.scheduler_address,
        compare=inputs / "other.safetensors", out=tmp_path / "out", temperatures=[5, 300],
        replicas=2, ps=0.05, relax_steps=0,
    )  # fmt: skip
    assert report.verdict == "unstable"
    assert report.name == "weak"
    assert report.comparison.name == "other"
    assert len(report.replicas) == 4
    written = json.loads((tmp_path / "out" / "stability.json").read_text())
    assert written["verdict"] == "unstable"
    assert (tmp_path / "out" / "candidates.xyz").is_file()


def test_scheduler_without_workers_is_told(campaign, tmp_path):
    distributed = pytest.importorskip("distributed")

    def give_up(standing):
        if "no workers" in standing.doing:
            raise KeyboardInterrupt

    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        pytest.raises(KeyboardInterrupt),
    ):
        run_campaign(campaign(), tmp_path / "out", scheduler=empty.scheduler_address, watch=give_up)


def test_error_in_a_dask_worker_ends_in_one_line(campaign, tmp_path, cluster, monkeypatch):
    # The workers see another file at the same path.
    monkeypatch.setattr("ase_ws.stability.campaign.inputs.digest_of", lambda path: "0" * 64)
    with pytest.raises(UserError, match="not the file that the campaign was started with"):
        run_campaign(campaign(), tmp_path / "out", scheduler=cluster.scheduler_address)


def test_settings_in_python(inputs, tmp_path):
    config = make_config(
        {
            "models": [str(inputs / "weak.safetensors")],
            "structures": [str(inputs / "water.xyz")],
            "temperatures": 5,
            "ps": 0.02,
            "static": False,
        }
    )
    assert run_campaign(config, tmp_path / "out", workers=1)["rows"][0]["replicas"] == 1
    with pytest.raises(UserError, match="workers 0"):
        run_campaign(config, tmp_path / "zero", workers=0)
