"""What frames bring with them counts: weights, levels of theory, stress."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ase_ws.data import METHANOL_TRAIN
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.frames.labels import frame_from_atoms
from ase_ws.graphs import collate
from ase_ws.losses import EnergyLoss, ForcesLoss, StressLoss, TotalLoss
from ase_ws.testing.toys import tiny_mace
from ase_ws.training import evaluate_potential, finetune
from ase_ws.training.gauss_newton import gauss_newton
from ase_ws.training.settings import LossConfig
from ase_ws.training.tangent import Tangent
from ase_ws.training.terms import supervised_terms


def labelled(atoms, seed=0, **info):
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    stress = rng.normal(size=6) * 0.01 if atoms.pbc.all() else None
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=-3.0 * len(atoms) + rng.normal(),
        forces=rng.normal(size=(len(atoms), 3)),
        stress=stress,
    )
    atoms.info.update(info)
    return atoms


def upstream_loss(frames, potential, name, *arguments):
    """Give a loss of upstream's on the same frames."""
    from mace import data, modules
    from mace.tools import AtomicNumberTable, torch_geometric

    keys = data.KeySpecification(
        info_keys={"energy": "REF_energy", "stress": "REF_stress"},
        arrays_keys={"forces": "REF_forces"},
    )
    items = []
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.info["REF_stress"] = atoms.get_stress(voigt=False)
        config = data.config_from_atoms(atoms, key_specification=keys)
        table = AtomicNumberTable([14])
        items.append(data.AtomicData.from_config(config, table, potential.r_max))
    batch = next(iter(torch_geometric.dataloader.DataLoader(items, batch_size=len(items))))
    graph = collate([frame_from_atoms(a).graph(potential.r_max) for a in frames])
    ours = potential(graph, forces=True, stress=True)
    loss = getattr(modules, name)(*arguments)
    out = {"energy": ours.energy, "forces": ours.forces, "stress": ours.stress}
    return loss(pred=out, ref=batch).item(), graph, ours


@pytest.fixture
def in_double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_weights_count_as_upstreams(in_double):
    silicon = bulk("Si", cubic=True)
    frames = [
        labelled(silicon, 0, config_weight=2.0, config_forces_weight=0.5),
        labelled(silicon, 1, config_energy_weight=0.0),
        labelled(silicon, 2, config_stress_weight=7.0),
    ]
    potential = tiny_mace((14,))
    theirs, graph, prediction = upstream_loss(
        frames, potential, "WeightedEnergyForcesStressLoss", 2.0, 3.0, 5.0
    )
    generator = torch.Generator()
    ours = sum(
        weight * loss(potential, graph, prediction, generator=generator).item()
        for weight, loss in ((2.0, EnergyLoss()), (3.0, ForcesLoss()), (5.0, StressLoss()))
    )
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "name", "factor"),
    [("universal", "UniversalLoss", 2.0), ("l1l2", "WeightedEnergyForcesL1L2Loss", 1.0)],
)
def test_losses_of_upstreams(in_double, metric, name, factor):
    """Its Huber form is half of ours; frames of one size, as it means over atoms."""
    silicon = bulk("Si", cubic=True)
    frames = [labelled(silicon, k) for k in range(4)]
    for atoms, size in zip(frames, (1.0, 150.0, 250.0, 400.0), strict=True):
        # Universal: the larger a force, the sooner its square ends.
        atoms.calc.results["forces"] = np.full((len(atoms), 3), size / 3**0.5)
    potential = tiny_mace((14,))
    stress = (5.0,) if metric == "universal" else ()
    theirs, graph, prediction = upstream_loss(frames, potential, name, 2.0, 3.0, *stress)
    settings = LossConfig(
        energy_weight=2.0, forces_weight=3.0, stress_weight=sum(stress), metric=metric
    )
    ours = TotalLoss(supervised_terms(settings, has_forces=True)).of(
        prediction, potential, graph, generator=torch.Generator()
    )
    assert ours.total.item() == pytest.approx(factor * theirs, rel=1e-6)


@pytest.mark.parametrize("value", [-1.0, float("nan"), "heavy"])
def test_a_weight_that_is_none(value):
    atoms = labelled(molecule("H2O"), config_weight=value)
    with pytest.raises(UserError, match="config_weight"):
        frame_from_atoms(atoms, "a.xyz#0")


def test_the_closed_form_takes_weights():
    """Squares count w times; a weight of zero is as if the frame were not there."""
    frames = read_frames(f"{METHANOL_TRAIN}@:8")
    base = tiny_mace((1, 6, 8))
    heavy = [replace(frames[0], weights=(4.0, 1.0, 1.0)), *frames[1:]]
    one, other = Tangent(base, frames), Tangent(base, heavy)
    root = torch.tensor([2.0] + [1.0] * 7, dtype=torch.float64)
    none = torch.zeros_like(one.weights)
    torch.testing.assert_close(other.kernel(none)[0], root[:, None] * one.kernel(none)[0] * root)
    torch.testing.assert_close(other.energies(), root * one.energies())
    without = gauss_newton(
        base, [replace(frames[0], weights=(0.0, 1.0, 1.0)), *frames[1:]], iterations=1
    )
    left_out = gauss_newton(base, frames[1:], iterations=1)
    for a, b in zip(without.parameters(), left_out.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def tune(frames, tmp_path, **settings):
    lines = []
    config = {
        "optimizer": {"max_steps": 1, "kind": "adam"},
        "data": {"valid_fraction": 0.3},
        **settings,
    }
    finetune(
        frames,
        model=tiny_mace((1, 8, 14)),
        config=config,
        out=tmp_path / "run",
        overwrite=True,
        announce=lines.append,
    )
    return "\n".join(lines)


def test_one_level_of_several(tmp_path):
    water = molecule("H2O")
    frames = [labelled(water, k, head="pbe" if k % 2 else "ccsd") for k in range(12)]
    with pytest.raises(UserError, match=r"ccsd × 6, pbe × 6.*data.head=NAME"):
        tune(frames, tmp_path)
    with pytest.raises(UserError, match="none of 'mp2'"):
        tune(frames, tmp_path, data={"head": "mp2"})
    said = tune(frames, tmp_path, data={"head": "ccsd", "valid_fraction": 0.3})
    assert "training: 4 frames" in said and "of head ccsd" in said
    assert "6 frames of other heads: left out" in said
    assert "not used" not in said


def test_weights_of_a_config_type(tmp_path):
    water = molecule("H2O")
    frames = [labelled(water, k, config_type="far" if k % 2 else "near") for k in range(6)]
    said = tune(frames, tmp_path, data={"config_type_weights": {"far": 3.0}})
    assert "of 6 frames have weights of their own" in said and "3 of 6" in said
    # Only training frames must have the type.
    config = {"data": {"config_type_weights": {"far": 3.0}}, "optimizer": {"max_steps": 1}}
    near = [atoms for atoms in frames if atoms.info["config_type"] == "near"]
    finetune(frames, near, model=tiny_mace((1, 8)), config=config, out=tmp_path / "two")
    with pytest.raises(UserError, match=r"no frame has config_type 'fra'.*far, near"):
        tune(frames, tmp_path, data={"config_type_weights": {"fra": 3.0}})
    with pytest.raises(UserError, match="expected 0 or more"):
        tune(frames, tmp_path, data={"config_type_weights": {"far": -1.0}})


def test_errors_by_config_type():
    water = molecule("H2O")
    frames = [
        frame_from_atoms(labelled(water, k, config_type="far" if k % 2 else "near"))
        for k in range(5)
    ]
    potential = tiny_mace((1, 8))
    found = evaluate_potential(potential, frames).by_config_type()
    assert list(found) == ["far", "near"]
    for name, row in found.items():
        alone = evaluate_potential(potential, [f for f in frames if f.config_type == name]).metrics
        assert row["n_frames"] == alone["n_frames"]
        for key in ("energy_rmse_mev_per_atom", "forces_rmse_mev_per_angstrom"):
            assert row[key] == pytest.approx(alone[key])


def test_stress_counts_by_default_where_it_is_labelled(tmp_path):
    silicon = [labelled(bulk("Si", cubic=True), k) for k in range(4)]
    tune(silicon, tmp_path)
    assert "stress_weight: 10" in (tmp_path / "run" / "config.yaml").read_text()
    said = tune(silicon, tmp_path, loss={"stress_weight": 0.0})
    assert "stress: there and not used" in said
    tune([labelled(molecule("H2O"), k) for k in range(4)], tmp_path)
    assert "stress_weight: 0" in (tmp_path / "run" / "config.yaml").read_text()
