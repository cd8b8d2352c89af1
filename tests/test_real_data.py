"""Real labels of other groups: molecules, a periodic solid, and a file that mixes sizes.

Reduced forms: the full figures come from `tests/benchmarks`.
"""

import numpy as np
import pytest
from ase.io import read, write
from shared_data import shared_file

from ase_ws.frames import read_frames
from ase_ws.training import evaluate_potential, finetune

SMALL = {"hidden_irreps": "16x0e+16x1o", "max_ell": 2}


def run(train, valid, out, steps, **sections):
    config = {"model": SMALL, "optimizer": {"max_steps": steps, "valid_interval": steps // 2}}
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    return finetune(train, valid, config=config, out=out)


@pytest.mark.parametrize("weak", ["none", "both"])
def test_ethanol_from_scratch(tmp_path, weak):
    frames = read(shared_file("rmd17/ethanol_train.xyz"), ":150")
    result = run(frames[:100], frames[100:], tmp_path / "run", 150, weak={"kind": weak})
    test = read_frames(read(shared_file("rmd17/ethanol_test.xyz"), ":100"))
    errors = evaluate_potential(result.potential, test).metrics
    spread = np.concatenate([f.forces.ravel() for f in test]).std() * 1000
    # Half of what predicting no forces at all would leave, after a few seconds of training.
    assert errors["forces_rmse_mev_per_angstrom"] < 0.5 * spread
    assert errors["energy_rmse_mev_per_atom"] < 15
    assert result.history[-1]["valid_loss"] < result.history[0]["valid_loss"]


def test_silicon_is_periodic(tmp_path):
    # The smaller cells of the file are relaxed surfaces, whose forces are next to nothing.
    frames = [a for a in read(shared_file("mlearn/Si_train.xyz"), ":") if len(a) >= 63][::14]
    assert all(a.pbc.all() for a in frames)
    train = [a for k, a in enumerate(frames) if k % 4]
    options = {"optimizer": {"batch_size": 2}, "model": {"r_max": 4.0}}
    result = run(train, frames[::4], tmp_path / "run", 120, **options)
    first, last = result.history[0], result.history[-1]
    assert last["forces_rmse_mev_per_angstrom"] < 0.7 * first["forces_rmse_mev_per_angstrom"]
    assert last["energy_rmse_mev_per_atom"] < 0.8 * first["energy_rmse_mev_per_atom"]


def test_molecules_of_different_sizes_in_one_file(tmp_path):
    names = ("ethanol", "uracil", "aspirin")
    frames = [a for n in names for a in read(shared_file(f"rmd17/{n}_train.xyz"), ":24")]
    # One frame in four keeps its forces; the others must not be pulled to zero forces.
    for k, atoms in enumerate(frames):
        if k % 4:
            atoms.calc.results.pop("forces")
    write(tmp_path / "mixed.xyz", frames)
    result = run(tmp_path / "mixed.xyz", frames[::4], tmp_path / "run", 80, weak={"kind": "both"})
    first, last = result.history[0], result.history[-1]
    assert last["forces_rmse_mev_per_angstrom"] < 0.7 * first["forces_rmse_mev_per_angstrom"]
    # The energies of aspirin (-17,600 eV) and ethanol (-4,200 eV) meet in one batch.
    assert np.isfinite(last["energy_rmse_mev_per_atom"])
