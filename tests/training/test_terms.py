"""Loss terms of the user's own: trained with, logged, noted, refused where they do not count."""

import csv
from functools import partial

import pytest
import torch

from ase_ws import finetune
from ase_ws.errors import UserError
from ase_ws.losses import TotalLoss, WeightedTerm
from ase_ws.losses.copies import Copy
from ase_ws.losses.term import Needs
from ase_ws.potentials.files import read_header


def small_forces(potential, batch, prediction, *, generator, a=0):
    """A plain function: mean square of all force components, in eV²/Å²."""
    return prediction.forces.square().mean()


class LowEnergies:
    """An object that says what it needs: no forces, a skin of its own, and a ramp."""

    skin = 0.3

    def __init__(self, part=1.0):
        self.part = part

    def needs_forces(self, batch):
        return False

    def at(self, part):
        return LowEnergies(part)

    def __call__(self, potential, batch, prediction, *, generator):
        assert prediction.forces is None or batch.labels.has_forces.any()
        return self.part * prediction.energy.mean()


def run(labelled, quick, out, terms, steps=30, **more):
    settings = {"max_steps": steps, "valid_interval": 15}
    return finetune(
        labelled(8), labelled(3, seed=50), config=quick(optimizer=settings), out=out,
        terms=terms, **more,
    )  # fmt: skip


def largest_force(potential, labelled):
    from ase_ws.frames import read_frames
    from ase_ws.training.evaluate import evaluate_potential

    return abs(evaluate_potential(potential, read_frames(labelled(3, seed=50))).forces_pred).max()


def test_a_term_of_the_users_own_trains_the_model(labelled, quick, tmp_path):
    plain = run(labelled, quick, tmp_path / "plain", [])
    term = WeightedTerm("small_forces", 100.0, small_forces)
    held = run(labelled, quick, tmp_path / "held", [term])
    # A hundred times the labels' own weight pulls the forces down.
    assert largest_force(held.potential, labelled) < 0.5 * largest_force(plain.potential, labelled)
    with (tmp_path / "held" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train_small_forces"]) > 0
    assert "train_small_forces" not in (tmp_path / "plain" / "metrics.csv").read_text()
    provenance = read_header(tmp_path / "held" / "model.safetensors")["provenance"]
    assert provenance["terms"].startswith("small_forces: 100.0 of test_terms.small_forces, ")


def test_what_a_term_says_of_itself_is_heeded(mace, to_graph, labelled):
    batch = to_graph(labelled(1)[0], 5.0)
    plain, says = (
        WeightedTerm("a", 1.0, small_forces),
        WeightedTerm("b", 1.0, LowEnergies(), 0.0, 0.5),
    )
    assert Needs.of(small_forces, batch) == Needs(forces=True, stress=False)
    assert Needs.of(says.loss, batch) == Needs(forces=False, stress=False)
    assert TotalLoss([plain]).skin == 0.0
    assert TotalLoss([plain, says]).skin == 0.3
    assert says.at(1, 10).loss.part == pytest.approx(0.2)
    assert says.at(5, 10).loss is says.loss
    value = TotalLoss([says])(mace, batch, generator=torch.Generator())
    assert float(value.raw["b"].detach()) == pytest.approx(
        float(mace(batch, forces=False).energy.mean().detach())
    )


class Bumps(LowEnergies):
    """Leaves its displaced copies to others: with those of all other such terms in one call."""

    def copies(self, potential, batch, prediction, generator):
        step = torch.zeros_like(batch.positions)
        step[0, 0] = 0.1
        return [Copy(step, forces=False)]

    def of(self, batch, start, copies, predictions):
        return (predictions[0].energy - start.energy).mean()


class Odd(LowEnergies):
    copies = 3


def test_a_term_of_displaced_copies(mace, to_graph, labelled):
    atoms = labelled(1)[0]
    batch = to_graph(atoms, mace.r_max + 0.3)
    moved = atoms.copy()
    moved.positions[0, 0] += 0.1
    terms = [WeightedTerm("bumps", 1.0, Bumps()), WeightedTerm("odd", 1.0, Odd())]
    with torch.no_grad():
        value = TotalLoss(terms)(mace, batch, generator=torch.Generator(), create_graph=False)
        there = mace(to_graph(moved, mace.r_max), forces=False).energy
        here = mace(batch, forces=False).energy
    assert float(value.raw["bumps"]) == pytest.approx(float(there - here), abs=1e-9)
    assert float(value.raw["odd"]) == pytest.approx(float(here))


def scaled(factor):
    def loss(potential, batch, prediction, *, generator):
        return factor * prediction.energy.mean()

    return loss


@pytest.mark.parametrize(
    ("loss", "again", "other"),
    [
        (small_forces, lambda: small_forces, LowEnergies()),
        (LowEnergies(0.5), lambda: LowEnergies(0.5), LowEnergies(0.6)),
        (scaled(2), lambda: scaled(2), scaled(3)),
        (partial(small_forces, a=1), lambda: partial(small_forces, a=1), partial(small_forces)),
    ],
)
def test_a_run_goes_on_with_the_same_terms_only(labelled, quick, tmp_path, loss, again, other):
    run(labelled, quick, tmp_path / "a", [WeightedTerm("x", 1.0, loss)], steps=15)
    for others in (
        [],
        [WeightedTerm("y", 1.0, loss)],
        [WeightedTerm("x", 1.0000001, loss)],
        [WeightedTerm("x", 1.0, loss, weight_ramp=0.5)],
        [WeightedTerm("x", 1.0, other)],
    ):
        with pytest.raises(UserError, match="the loss terms have changed since the run began"):
            run(labelled, quick, tmp_path / "a", others, resume=True)
    run(labelled, quick, tmp_path / "a", [WeightedTerm("x", 1.0, again())], resume=True)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([WeightedTerm("a", 1.0, 3)], "a loss that can be called, not WeightedTerm"),
        (
            [small_forces],
            r"expected .*WeightedTerm\(name, weight, loss\) with a loss that can",
        ),
        ([WeightedTerm("energy", 1.0, small_forces)], "the name 'energy' is taken"),
        ([WeightedTerm("a", 1.0, small_forces)] * 2, "the name 'a' is taken"),
    ],
)
def test_bad_terms_are_refused_before_anything_is_written(
    labelled, quick, tmp_path, terms, message
):
    with pytest.raises(UserError, match=message):
        run(labelled, quick, tmp_path / "a", terms)
    assert not (tmp_path / "a").exists()


def test_the_closed_form_would_ignore_a_term(labelled, tmp_path):
    term = WeightedTerm("small_forces", 1.0, small_forces)
    with pytest.raises(UserError, match="gauss-newton solves for the energies alone"):
        finetune(
            labelled(8, forces=False), config={"optimizer": {"kind": "gauss-newton"}},
            out=tmp_path / "a", terms=[term],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, r"loss term '': its name becomes a column"),
        ({"name": 3}, r"loss term 3: its name becomes a column"),
        ({"name": "a,b\n"}, r"loss term 'a,b\\n': its name becomes a column"),
        ({"weight": -1.0}, r"loss term 'a': weight is -1.0: expected a number from 0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"weight": "1"}, "weight is '1'"),
        ({"weight_ramp": 2}, "weight_ramp is 2: expected a number from 0 to 1"),
        ({"fraction": None}, "fraction is None"),
    ],
)
def test_names_and_numbers_of_a_term_are_checked(given, message):
    with pytest.raises(UserError, match=message):
        WeightedTerm(**{"name": "a", "weight": 1.0, "loss": small_forces, **given})


def test_a_term_that_never_counts_is_named(labelled, quick, tmp_path):
    said = []
    terms = [WeightedTerm("a", 0.0, small_forces), WeightedTerm("b", 1.0, small_forces)]
    run(labelled, quick, tmp_path / "a", terms, steps=3, announce=said.append)
    assert "loss term 'a' never counts: weight or fraction is 0" in said
    assert not any("'b'" in line for line in said)
