"""What the tests share: tiny models and labelled frames, and a watch on global state."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ase_ws.calculators import PotentialCalculator
from ase_ws.graphs import collate, graph
from ase_ws.potentials.mace.direct import DirectPotential
from ase_ws.testing import Morse, tiny_mace

# Molecules of a few atoms are too small to share between threads; on a busy machine sharing
# them makes the tests many times slower.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def default_dtype():
    """No test may leave another default dtype behind."""
    before = torch.get_default_dtype()
    yield
    after = torch.get_default_dtype()
    torch.set_default_dtype(before)
    assert after == before


@pytest.fixture(scope="session")
def mace():
    """A tiny random MACE for H, C, O in float64. Never change it: copy it."""
    return tiny_mace(e0=(-13.6, -1030.0, -2040.0))


@pytest.fixture(scope="session")
def direct_mace():
    """The same size with a direct-force readout and vectors in every layer."""
    body = tiny_mace(e0=(-13.6, -1030.0, -2040.0), keep_last_layer_irreps=True)
    return DirectPotential(body, seed=1)


@pytest.fixture(scope="session")
def silicon_mace():
    return tiny_mace((14,), r_max=4.0, avg_num_neighbors=16.0)


@pytest.fixture(scope="session")
def small_mace():
    """One layer: three times as quick to build, for tests of files and of the command line."""
    return tiny_mace(e0=(-13.6, -1030.0, -2040.0), num_interactions=1, correlation=1)


@pytest.fixture(scope="session")
def model_file(small_mace, tmp_path_factory):
    from ase_ws.potentials.files import save_potential

    return save_potential(small_mace, tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def upstream(monkeypatch):
    """Upstream's calculators and modules, with what they need and without what they leave."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    dtype = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mace.calculators
        import mace.modules

        yield mace
    torch.set_default_dtype(dtype)


@pytest.fixture
def to_graph():
    """One structure, or several as one batch, with edges up to `cutoff`."""

    def make(structures, cutoff, labels=None):
        structures = [structures] if isinstance(structures, Atoms) else structures
        labels = labels or [None] * len(structures)
        graphs = [
            graph(a.numbers, a.positions, np.array(a.cell), a.pbc, cutoff=cutoff, labels=label)
            for a, label in zip(structures, labels, strict=True)
        ]
        return collate(graphs)

    return make


def rattled(name, seed, size=0.08):
    atoms = molecule(name)
    atoms.positions += np.random.default_rng(seed).normal(0, size, atoms.positions.shape)
    return atoms


def rattled_silicon(seed, size=0.1, repeat=1):
    atoms = bulk("Si", "diamond", a=5.43, cubic=repeat > 1) * (repeat if repeat > 1 else 1)
    strain = np.random.default_rng(seed + 1000).normal(0, 0.03, (3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(0, size, atoms.positions.shape)
    return atoms


@pytest.fixture(scope="session")
def structures():
    """Structures that differ in size, periodicity and elements."""
    slab = Atoms("C2O", [[0.1, 0, 0], [1.3, 1.2, 0.2], [0.3, 0.2, 1.3]])
    slab.set_cell([[2.6, 0, 0], [0.4, 2.7, 0], [0, 0, 20]])
    slab.pbc = (True, True, False)
    carbon = bulk("C", "diamond", a=3.6)
    carbon.positions += [[0.05, -0.1, 0.02], [0.0, 0.07, -0.03]]
    return [rattled("CH3OH", 1), rattled("H2O", 2), carbon, slab, rattled("CO2", 3), Atoms("H")]


LEVEL = {1: -13.6, 6: -1030.0, 7: -1480.0, 8: -2040.0, 14: -150.0}


@pytest.fixture(scope="session")
def labelled():
    """Frames with labels of a Morse potential on top of large reference energies."""

    def make(n=12, kind="CH3OH", seed=0, forces=True, stress=False, level=LEVEL):
        teacher = Morse(r_max=3.5 if kind == "Si" else 3.0, r0=2.2 if kind == "Si" else 1.3)
        frames = []
        for k in range(n):
            name = kind if isinstance(kind, str) else kind[k % len(kind)]
            atoms = rattled_silicon(seed + k) if name == "Si" else rattled(name, seed + k)
            probe = atoms.copy()
            probe.calc = PotentialCalculator(teacher)
            energy = probe.get_potential_energy() + sum(level[z] for z in atoms.numbers)
            results = {"energy": energy}
            if forces is True or (callable(forces) and forces(k)):
                results["forces"] = probe.get_forces()
            if stress:
                results["stress"] = probe.get_stress()
            atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
        return frames

    return make


@pytest.fixture(scope="session")
def frame_files(labelled, tmp_path_factory):
    """Training and validation files with energies and forces, and one with energies only."""
    folder = tmp_path_factory.mktemp("frames")
    write(folder / "train.xyz", labelled(10))
    write(folder / "valid.xyz", labelled(4, seed=100))
    write(folder / "energies.xyz", labelled(8, seed=200, forces=False))
    return folder


#: Small and quick: what the training tests have in common.
@pytest.fixture
def quick():
    def make(**sections):
        config = {
            "model": {
                "hidden_irreps": "8x0e+8x1o",
                "MLP_irreps": "8x0e",
                "num_bessel": 4,
                "r_max": 3.5,
                "num_interactions": 1,
                "correlation": 1,
            },
            "optimizer": {
                "max_steps": 8,
                "valid_interval": 4,
                "batch_size": 3,
                "warmup_steps": 2,
                "learning_rate": 5e-3,
            },
            "dtype": "float64",
            "device": "cpu",
        }
        for name, values in sections.items():
            config[name] = (
                {**config.get(name, {}), **values} if isinstance(values, dict) else values
            )
        return config

    return make


@pytest.fixture
def cli(monkeypatch, capfd):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        from ase_ws.cli import main

        monkeypatch.setattr("sys.argv", ["ase-ws", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def listing():
    """Everything below a folder, with contents: to see that nothing was left or changed."""

    def make(folder):
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path): path.stat().st_mtime_ns for path in files}

    return make
