"""The loop of gradient steps: parts, rates, stages, processes, what is written beside."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from ase_ws.errors import UserError
from ase_ws.potentials.files import load_potential
from ase_ws.testing.toys import tiny_mace
from ase_ws.training import finetune
from ase_ws.training.batches import Batches
from ase_ws.training.low_rank import LowRank
from ase_ws.training.optimizer import Average, Rate
from ase_ws.training.parts import by_rate
from ase_ws.training.settings import OptimizerConfig


@pytest.fixture
def base():
    return tiny_mace((1, 6, 8), e0=(-1.0, -2.0, -3.0), r_max=3.5, seed=3)


def weights(potential):
    return torch.cat([w.detach().reshape(-1).double() for w in potential.parameters()])


def moved(result, base):
    """Which weights are others than in the base, by name."""
    before = dict(base.named_parameters())
    return {
        name: not torch.equal(w, before[name].to(w.dtype))
        for name, w in result.potential.named_parameters()
    }


# --- a step in parts -------------------------------------------------------------------------


def test_parts_of_a_step_add_up_to_the_whole(labelled, quick, tmp_path):
    frames, valid = labelled(8), labelled(2, seed=20)
    found = [
        finetune(
            frames,
            valid,
            config=quick(dtype="float64", optimizer={"batch_size": 4, "parts": parts}),
            out=tmp_path / str(parts),
        )
        for parts in (1, 3)
    ]
    one, three = (weights(result.potential) for result in found)
    assert torch.allclose(one, three, rtol=1e-6, atol=1e-9)
    losses = [result.history[-1]["train_loss"] for result in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_every_structure_is_dealt_once(labelled):
    from ase_ws.frames import read_frames

    graphs = [f.graph(3.0, k) for k, f in enumerate(read_frames(labelled(7)))]
    batches = Batches(graphs, 5, seed=0)
    seen = [k for _, _, part in batches.parts(0, 3) for k in part.frame_ids.tolist()]
    assert sorted(seen) == sorted(batches.numbers(0))
    assert sum(share for _, share, _ in batches.parts(0, 3)) == pytest.approx(1.0)


def test_processes_take_the_steps_of_one(labelled, tmp_path):
    """Two processes, each with a part of every batch and of the validation frames."""
    import ase.io

    ase.io.write(tmp_path / "train.xyz", labelled(8))
    ase.io.write(tmp_path / "valid.xyz", labelled(5, seed=20))
    settings = {
        "data": {"train": str(tmp_path / "train.xyz"), "valid": str(tmp_path / "valid.xyz")},
        "model": {"hidden_irreps": "4x0e+4x1o", "r_max": 3.0, "num_interactions": 1},
        "optimizer": {"batch_size": 4, "max_steps": 6, "valid_interval": 3},
        "dtype": "float64",
        "device": "cpu",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["finetune", "--config", str(tmp_path / "run.yaml"), "--quiet", "--out"]
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*program, "-m", "ase_ws.cli", *arguments, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = finetune(config=tmp_path / "run.yaml", out=tmp_path / "one")
    two = load_potential(tmp_path / "two" / "model.safetensors")
    assert torch.allclose(weights(one.potential), weights(two), rtol=1e-6, atol=1e-9)
    with (tmp_path / "two" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for mine, row in zip(one.history, rows, strict=True):
        for name in ("train_loss", "valid_loss", "forces_mae_mev_per_angstrom"):
            if mine[name] is not None:
                assert float(row[name]) == pytest.approx(mine[name], rel=1e-5), name


# --- rates -----------------------------------------------------------------------------------


def test_parts_of_the_network_have_their_own_rates(base, labelled, quick, tmp_path):
    groups = dict(by_rate(base, {"readouts": 10.0, "interactions.*": 0.5}))
    assert set(groups) == {1.0, 10.0, 0.5}
    assert sum(len(g) for g in groups.values()) == len(list(base.parameters()))
    with pytest.raises(UserError, match=r"optimizer\.rates: no weight is called 'layers'"):
        by_rate(base, {"layers": 2.0})
    settings = {"rates": {"*": 1e-12, "readouts": 1.0}, "learning_rate": 0.01}
    result = finetune(
        labelled(6),
        labelled(2, seed=9),
        model=base.double(),
        config=quick(dtype="float64", optimizer=settings),
        out=tmp_path / "a",
    )
    before = dict(base.named_parameters())
    steps = {
        name: float((w - before[name]).detach().abs().max())
        for name, w in result.potential.named_parameters()
    }
    slow = [step for name, step in steps.items() if "readouts" not in name]
    assert max(slow) < 1e-9
    assert max(step for name, step in steps.items() if "readouts" in name) > 1e-4


def test_a_plateau_halves_the_rate():
    rate = Rate(OptimizerConfig(schedule="plateau", plateau=2, max_steps=100, warmup_steps=0))
    found = []
    for stale in (0, 1, 2, 3, 4, 0, 1):
        rate.validated(stale=stale)
        found.append(rate.factor(50))
    assert found == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_the_second_stage(labelled, quick, tmp_path):
    """Another loss, another rate, and models are judged by the new loss alone."""
    result = finetune(
        labelled(6),
        labelled(2, seed=9),
        config=quick(
            loss={"energy_weight": 1.0, "second": {"energy": 1e4}},
            optimizer={"max_steps": 12, "valid_interval": 3, "second_stage": 0.5},
        ),
        out=tmp_path / "a",
    )
    losses = {row["step"]: row["valid_loss"] for row in result.history}
    assert losses[9] > 20 * losses[6]
    assert result.kept_step in (9, 12)
    rates = {row["step"]: row["learning_rate"] for row in result.history}
    assert rates[9] == rates[12] == pytest.approx(0.1 * 0.005)
    with pytest.raises(UserError, match="second_stage"):
        finetune(labelled(6), config=quick(loss={"second": {"energy": 2.0}}), out=tmp_path / "b")


def test_out_of_patience_the_second_stage_begins(labelled, quick, tmp_path):
    settings = quick(
        loss={"second": {"energy": 10.0}},
        optimizer={
            "max_steps": 20,
            "valid_interval": 2,
            "patience": 2,
            "learning_rate": 1e-15,
            "ema_decay": 0.0,
            "second_stage": 0.5,
        },
    )
    frames, valid, steps = labelled(6), labelled(2, seed=9), []
    result = finetune(
        frames,
        valid,
        config=settings,
        out=tmp_path / "a",
        progress=lambda done, _total, _row: steps.append(done),
    )
    assert steps == [1, 2, 3, 4, *range(11, steps[-1] + 1)]
    assert steps[-1] < 20
    assert result.kept_step > 10
    # Nothing is left to do.
    finetune(
        frames,
        valid,
        config=settings,
        out=tmp_path / "a",
        resume=True,
        progress=lambda *_: pytest.fail("a step"),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"rates": {"readouts": 10.0}}}, "the run had optimizer.rates"),
        ({"loss": {"second": {"energy": 5.0}}}, "the run had loss.second"),
        ({"replay": {"train": "replay.xyz"}}, "the frames that are replayed have changed"),
    ],
)
def test_what_was_left_out_is_noticed_on_resume(
    base, labelled, quick, tmp_path, monkeypatch, settings, message
):
    import ase.io

    monkeypatch.chdir(tmp_path)
    ase.io.write("replay.xyz", labelled(4, seed=70))
    steps = {"max_steps": 8, "second_stage": 0.5}
    frames, valid = labelled(6), labelled(2, seed=9)
    first = {**settings, "optimizer": {**settings.get("optimizer", {}), **steps}}
    finetune(frames, valid, model=base, config=quick(**first), out="a")
    before = (tmp_path / "a" / "config.yaml").read_text()
    with pytest.raises(UserError, match=message):
        finetune(frames, valid, model=base, config=quick(optimizer=steps), out="a", resume=True)
    assert (tmp_path / "a" / "config.yaml").read_text() == before


def test_a_second_stage_keeps_the_number_of_steps(labelled, quick, tmp_path):
    """It begins at a part of them: with more the run would fall back into the first."""
    frames, valid = labelled(6), labelled(2, seed=9)
    steps = {"max_steps": 8, "second_stage": 0.5}
    finetune(frames, valid, config=quick(optimizer=steps), out=tmp_path / "a")
    more = quick(optimizer={**steps, "max_steps": 20})
    with pytest.raises(UserError, match=r"the run had optimizer\.max_steps = 8, now it is 20"):
        finetune(frames, valid, config=more, out=tmp_path / "a", resume=True)


def test_sets_of_other_names_are_noticed_on_resume(labelled, quick, tmp_path):
    frames, valid = labelled(6), labelled(2, seed=9)
    finetune(frames, {"a": valid}, config=quick(), out=tmp_path / "a")
    with pytest.raises(UserError, match="validation sets have changed"):
        finetune(frames, {"b": valid}, config=quick(), out=tmp_path / "a", resume=True)


def test_schedule_free(labelled, quick, tmp_path):
    pytest.importorskip("schedulefree")
    settings = quick(
        optimizer={"kind": "schedule-free", "max_steps": 30, "valid_interval": 10},
        dtype="float64",
    )
    frames, valid = labelled(8), labelled(2, seed=20)
    whole = finetune(frames, valid, config=settings, out=tmp_path / "a")
    first, last = whole.history[0], whole.history[-1]
    assert last["valid_loss"] < 0.8 * first["valid_loss"]
    # What is validated is what is kept.
    assert evaluated(whole.potential, valid) == pytest.approx(
        min(r["forces_rmse_mev_per_angstrom"] for r in whole.history), rel=1e-6
    )

    def interrupt(done, _total, _row):
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(frames, valid, config=settings, out=tmp_path / "b", progress=interrupt)
    resumed = finetune(frames, valid, config=settings, out=tmp_path / "b", resume=True)
    assert torch.allclose(weights(resumed.potential), weights(whole.potential), rtol=1e-9)
    with pytest.raises(UserError, match="schedule-free has no schedule"):
        finetune(
            frames,
            config=quick(optimizer={"kind": "schedule-free", "schedule": "cosine"}),
            out=tmp_path / "c",
        )


def evaluated(potential, atoms):
    from ase_ws.frames import read_frames
    from ase_ws.training import evaluate_potential

    return evaluate_potential(potential, read_frames(atoms)).metrics["forces_rmse_mev_per_angstrom"]


def test_the_average_begins_at_the_first_step():
    weight = torch.zeros(3)
    average = Average([weight], 0.9)
    weight += 1.0
    average.update()
    assert average.mean[0].tolist() == [1.0] * 3
    weight += 1.0
    average.update()
    with average.in_use():
        assert weight.tolist() == pytest.approx([1 + 9 / 11] * 3)
    assert weight.tolist() == [2.0] * 3


# --- low rank --------------------------------------------------------------------------------


def test_low_rank_gradients_are_those_of_its_factors(base):
    """Against autograd through W0 + s A B."""
    low = LowRank(base.double(), rank=2, alpha=3.0, seed=0)
    block = low._blocks[0]
    (a, b), start = low._factors[0], low._start[0]
    with torch.no_grad():
        b += 0.1
    target = torch.randn(block.rows, block.columns, dtype=torch.float64)
    block.weight.grad = torch.zeros_like(block.weight)
    low.push()
    value = block.of(block.weight.detach())
    block.of(block.weight.grad).copy_(2 * (value - target))
    low.pull()
    mine = a.grad.clone(), b.grad.clone()
    other_a, other_b = a.detach().requires_grad_(), b.detach().requires_grad_()
    ((start + 1.5 * other_a @ other_b - target) ** 2).sum().backward()
    assert torch.allclose(mine[0], other_a.grad)
    assert torch.allclose(mine[1], other_b.grad)


def test_low_rank_changes_are_of_low_rank_and_merged(base, labelled, quick, tmp_path):
    result = finetune(
        labelled(6),
        labelled(2, seed=9),
        model=base,
        config=quick(model={"lora_rank": 1}, optimizer={"learning_rate": 0.02}),
        out=tmp_path / "a",
    )
    after, before = result.potential.double().matrices(), base.double().matrices()
    ranks = []
    for new, old in zip(after, before, strict=True):
        change = new.of(new.weight.detach()) - old.of(old.weight.detach())
        if float(change.abs().max()) > 1e-6:
            ranks.append(int(torch.linalg.matrix_rank(change, rtol=1e-4)))
    assert ranks and max(ranks) == 1
    assert any(min(m.rows, m.columns) > 1 for m in before)
    # What belongs to no matrix stays.
    changed = moved(result, base)
    assert any(changed.values())
    assert not any(change for name, change in changed.items() if "symmetric_contractions" in name)


def test_low_rank_goes_on_where_it_was(base, labelled, quick, tmp_path):
    settings = quick(model={"lora_rank": 2}, dtype="float64")
    frames, valid = labelled(6), labelled(2, seed=9)
    whole = finetune(frames, valid, model=base, config=settings, out=tmp_path / "a")

    def interrupt(done, _total, _row):
        if done == 6:
            raise KeyboardInterrupt

    arguments = {"model": base, "config": settings, "out": tmp_path / "b"}
    with pytest.raises(KeyboardInterrupt):
        finetune(frames, valid, **arguments, progress=interrupt)
    resumed = finetune(frames, valid, **arguments, resume=True)
    assert torch.allclose(weights(resumed.potential), weights(whole.potential), rtol=1e-9)


def test_low_rank_wants_something_to_train(base, labelled, quick, tmp_path):
    linear = [f"*{name}*" for name in ("linear", "conv_tp_weights", "embedding")]
    for model, message in (
        ({"lora_rank": 2, "freeze": linear}, "every matrix is frozen"),
        ({"lora_rank": 2}, "leave optimizer.rates out"),
    ):
        rates = {} if "freeze" in model else {"rates": {"readouts": 2.0}}
        with pytest.raises(UserError, match=message):
            finetune(
                labelled(6),
                labelled(2, seed=9),
                model=base,
                config=quick(model=model, optimizer=rates),
                out=tmp_path / "a",
            )


def test_low_rank_is_for_gradient_steps(base, labelled, quick, tmp_path):
    with pytest.raises(UserError, match="lora_rank"):
        finetune(
            labelled(9, forces=False),
            model=base,
            config={"model": {"lora_rank": 2}, "optimizer": {"kind": "gauss-newton"}},
            out=tmp_path / "a",
        )


# --- what is validated, and where rows go ----------------------------------------------------


def test_several_sets_validate(labelled, quick, tmp_path):
    sets = {"near": labelled(2, seed=20), "far": labelled(3, seed=40)}
    result = finetune(labelled(6), sets, config=quick(), out=tmp_path / "a")
    row = result.history[-1]
    energies = [row[f"{name}_energy_rmse_mev_per_atom"] for name in sets]
    assert row["energy_rmse_mev_per_atom"] == pytest.approx(
        np.sqrt((2 * energies[0] ** 2 + 3 * energies[1] ** 2) / 5), rel=1e-6
    )
    best = min(result.history, key=lambda r: r["valid_loss"])
    for name, atoms in sets.items():
        found = evaluated(result.potential, atoms)
        assert best[f"{name}_forces_rmse_mev_per_angstrom"] == pytest.approx(found, rel=1e-4)
    with pytest.raises(UserError, match="becomes a column"):
        finetune(labelled(6), {"a,b": labelled(2)}, config=quick(), out=tmp_path / "b")


def test_several_sets_by_file(frame_files, quick, tmp_path):
    valid = {"one": str(frame_files / "valid.xyz"), "two": str(frame_files / "train.xyz")}
    first = finetune(str(frame_files / "train.xyz"), valid, config=quick(), out=tmp_path / "a")
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["data"]["valid"] == valid
    again = finetune(config=tmp_path / "a" / "config.yaml", out=tmp_path / "b")
    assert torch.equal(weights(first.potential), weights(again.potential))


def test_rows_go_to_tensorboard(labelled, quick, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = finetune(
        labelled(6), labelled(2, seed=9), config=quick(log=["tensorboard"]), out=tmp_path / "a"
    )
    found = events.EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    found.Reload()
    values = {e.step: e.value for e in found.Scalars("valid_loss")}
    assert values == pytest.approx({r["step"]: r["valid_loss"] for r in result.history}, rel=1e-5)


def test_rows_go_to_wandb(labelled, quick, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    finetune(labelled(6), labelled(2, seed=9), config=quick(log=["wandb"]), out=tmp_path / "a")
    assert list((tmp_path / "a" / "wandb").glob("offline-run-*"))


def test_a_logger_that_is_not_there(labelled, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("ase_ws.training.loggers.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install wandb"):
        finetune(labelled(6), config=quick(log=["wandb"]), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_of_an_earlier_version_is_one_line(labelled, quick, tmp_path):
    frames, valid, out = labelled(6), labelled(2, seed=9), tmp_path / "a"
    finetune(frames, valid, config=quick(), out=out)
    torch.save({"pytorch-lightning_version": "2.6.1", "global_step": 8}, out / "last.ckpt")
    with pytest.raises(UserError, match="of an earlier version of ase_ws"):
        finetune(frames, valid, config=quick(), out=out, resume=True)
