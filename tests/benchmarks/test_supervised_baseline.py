"""The supervised baseline on rMD17 ethanol must be a strong one: 100 labelled frames, 3 seeds.

    pytest tests/benchmarks/test_supervised_baseline.py -s

A minute and a half of one core per seed. The bound is what a prototype reached, with a margin; a
weak loss is only compared with a baseline that keeps it.
"""

import sys
from pathlib import Path

import pytest
from ase.io import read

from ase_ws.frames import read_frames
from ase_ws.training import evaluate_potential, finetune

sys.path.insert(0, str(Path(__file__).parent.parent))
from shared_data import shared_file

N_ATOMS = 9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ethanol_100(tmp_path, seed, capsys):
    frames = read(shared_file("rmd17/ethanol_train.xyz"), ":")
    start = 150 * seed
    train, valid = frames[start : start + 100], frames[start + 100 : start + 150]
    config = {"optimizer": {"max_steps": 1500}, "seed": seed}
    result = finetune(train, valid, config=config, out=tmp_path / "run")
    test = read_frames(read(shared_file("rmd17/ethanol_test.xyz"), ":500"))
    errors = evaluate_potential(result.potential, test).metrics
    energy = N_ATOMS * errors["energy_rmse_mev_per_atom"]
    forces = errors["forces_rmse_mev_per_angstrom"]
    with capsys.disabled():
        sys.stdout.write(
            f"\nseed {seed}: energy RMSE {energy:.1f} meV, forces {forces:.1f} meV/Å\n"
        )
    assert energy <= 45
    assert forces <= 105
