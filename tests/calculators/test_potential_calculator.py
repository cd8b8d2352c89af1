"""The ASE calculator: every convention of ASE, and upstream's numbers."""

import copy
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import (
    CalculatorError,
    CalculatorSetupError,
    PropertyNotImplementedError,
)
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from ase_ws import CommitteeCalculator, GuardedCalculator, PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.potentials.mace.direct import DirectPotential
from ase_ws.testing import Cubic, Curl, Harmonic, LeakyMorse, Morse


def attach(atoms, potential, **options):
    atoms = atoms.copy()
    atoms.calc = PotentialCalculator(potential, **options)
    return atoms


@pytest.fixture
def derivatives(monkeypatch):
    """How often autograd was asked, and for how many quantities."""
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: calls.append(len(a[1])) or grad(*a, **k)
    )
    return calls


# --- conventions of ASE ----------------------------------------------------------------------


def test_an_energy_costs_no_derivative(mace, derivatives):
    atoms = attach(molecule("CH3OH"), mace)
    derivatives.clear()  # of the comparison with upstream's forward
    atoms.get_potential_energy()
    assert derivatives == []
    assert set(atoms.calc.results) == {"energy", "free_energy", "energies"}
    atoms.get_forces()
    assert derivatives == [1]
    assert "stress" not in atoms.calc.results


def test_results_are_kept_until_something_changes():
    potential = Morse()
    atoms = attach(molecule("H2O"), potential)
    energy = atoms.get_potential_energy()
    atoms.get_potential_energy()
    assert len(potential.calls) == 1
    atoms.get_forces()
    atoms.get_forces()
    atoms.get_potential_energy()
    assert potential.calls == [(False, False), (True, False)]
    atoms.positions[0] += 0.1
    assert atoms.get_potential_energy() != energy
    assert len(potential.calls) == 3
    assert "forces" not in atoms.calc.results


def test_energies(mace, structures):
    for structure in structures:
        atoms = attach(structure, mace)
        energy = atoms.get_potential_energy()
        assert isinstance(energy, float)
        assert atoms.get_potential_energy(force_consistent=True) == energy
        per_atom = atoms.get_potential_energies()
        assert per_atom.shape == (len(atoms),)
        assert per_atom.dtype == np.float64
        assert per_atom.sum() == pytest.approx(energy, abs=1e-9)


def test_forces_against_finite_differences(mace, structures):
    for k in (0, 2, 3):
        atoms = attach(structures[k], mace)
        probe = attach(structures[k], mace)
        expected = calculate_numerical_forces(probe, eps=1e-4)
        forces = atoms.get_forces()
        assert forces.dtype == np.float64
        assert abs(forces).max() > 0.01
        np.testing.assert_allclose(forces, expected, atol=1e-5)


def test_stress_in_ase_s_order_and_sign(silicon_mace):
    crystal = bulk("Si", "diamond", a=5.2)
    strain = np.array([[0.03, 0.1, 0.05], [0, -0.02, 0.07], [0, 0, 0.01]])
    crystal.set_cell(crystal.cell @ (np.eye(3) + strain), scale_atoms=True)
    crystal.positions[1] += [0.1, 0.05, -0.1]
    atoms = attach(crystal, silicon_mace)
    stress = atoms.get_stress()
    assert stress.shape == (6,)
    assert len(np.unique(np.round(stress, 6))) == 6
    expected = calculate_numerical_stress(attach(crystal, silicon_mace), eps=1e-4, voigt=True)
    np.testing.assert_allclose(stress, expected, atol=1e-6)


def test_stress_of_a_compressed_crystal_is_negative():
    """ASE's sign: negative under compression."""
    crystal = bulk("Si", "diamond", a=3.4)
    potential = Morse(r0=2.2, r_max=4.0)
    assert (attach(crystal, potential).get_stress()[:3] < 0).all()
    crystal = bulk("Si", "diamond", a=6.0)
    assert (attach(crystal, potential).get_stress()[:3] > 0).all()


def test_a_molecule_has_no_stress(mace):
    for atoms in (molecule("H2O"), Atoms("C2", [[0, 0, 0], [0, 0, 1.3]], cell=[9, 9, 9])):
        atoms.calc = PotentialCalculator(mace)
        with pytest.raises(PropertyNotImplementedError, match="periodic"):
            atoms.get_stress()
        assert np.isfinite(atoms.get_potential_energy())


def test_what_it_cannot_do(mace):
    with pytest.raises(PropertyNotImplementedError):
        attach(molecule("H2O"), mace).get_dipole_moment()


def test_calculate_can_be_called_with_everything(silicon_mace):
    atoms = bulk("Si", "diamond", a=5.3)
    calculator = PotentialCalculator(silicon_mace)
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    assert {"energy", "forces", "stress"} <= set(calculator.results)
    assert calculator.results["forces"].shape == (2, 3)


# --- upstream --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_it_agrees_with_upstream(upstream, mace, tmp_path, structures):
    from ase_ws.potentials.mace.upstream import export_upstream

    path = export_upstream(mace, tmp_path / "m.model")
    reference = upstream.calculators.MACECalculator(
        model_paths=str(path), device="cpu", default_dtype="float64"
    )
    del os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"]
    for calculator in (PotentialCalculator(mace), PotentialCalculator(path)):
        for k in (0, 2, 3):
            ours, theirs = structures[k].copy(), structures[k].copy()
            ours.calc, theirs.calc = calculator, reference
            assert ours.get_potential_energy() == pytest.approx(
                theirs.get_potential_energy(), abs=1e-9
            )
            np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-9)
            if ours.pbc.all():
                np.testing.assert_allclose(ours.get_stress(), theirs.get_stress(), atol=1e-10)


# --- neighbour list --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["molecule", "crystal"])
def test_the_skin_changes_nothing(kind):
    """300 steps of a random walk, with a rare jump, against a new list at every step."""
    if kind == "molecule":
        start, potential = molecule("CH3CH2OH"), Morse(r_max=2.5)
    else:
        start, potential = bulk("Si", "diamond", a=5.43), Morse(r0=2.2, r_max=3.9)
    atoms = start.copy()
    kept, fresh = PotentialCalculator(potential, skin=0.6), PotentialCalculator(potential, skin=0)
    rng = np.random.default_rng(0)
    for step in range(300):
        # Bounded, so that the crystal's atoms leave the cell but never collapse.
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        atoms.positions += 0.02 * (start.positions - atoms.positions)
        if step == 150:
            atoms.positions[0] += 1.5
        if step == 151:
            atoms.positions[0] -= 1.5
        atoms.calc = fresh
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = kept
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-11)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-11)
    assert fresh.graph.builds >= 300
    assert kept.graph.builds < 100


def test_a_step_within_half_the_skin_keeps_the_list(mace):
    atoms = attach(molecule("CH3OH"), mace, skin=0.5)
    atoms.get_potential_energy()
    atoms.positions += 0.1  # 0.17 Å
    atoms.get_forces()
    assert atoms.calc.graph.builds == 1
    atoms.positions[2, 0] += 0.2
    atoms.get_potential_energy()
    assert atoms.calc.graph.builds == 2


def test_cells_elements_and_periodicity_renew_the_list():
    potential = Morse(r0=2.2, r_max=4.0)
    atoms = attach(bulk("Si", "diamond", a=5.43), potential)
    changes = [
        lambda a: a.set_cell(a.cell * 1.001, scale_atoms=True),
        lambda a: a.set_atomic_numbers([14, 6]),
        lambda a: a.set_pbc((True, True, False)),
        lambda a: a.append("Si"),
    ]
    atoms.get_potential_energy()
    for k, change in enumerate(changes):
        change(atoms)
        if len(atoms) == 3:
            atoms.positions[2] = [1.0, 2.0, 3.0]
        fresh = attach(atoms, potential, skin=0)
        assert atoms.get_potential_energy() == pytest.approx(
            fresh.get_potential_energy(), abs=1e-12
        )
        assert atoms.calc.graph.builds == k + 2


def test_one_calculator_for_two_structures():
    calculator = PotentialCalculator(Morse())
    one, two = molecule("H2O"), molecule("CH3OH")
    expected = [attach(a, Morse()).get_potential_energy() for a in (one, two)]
    one.calc = two.calc = calculator
    for _ in range(2):
        assert [a.get_potential_energy() for a in (one, two)] == expected


def test_a_leaking_potential_gets_no_skin():
    calculator = PotentialCalculator(LeakyMorse(), skin=1.0)
    assert calculator.graph.skin == 0.0
    atoms = molecule("CH3CH2OH")
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(
        attach(atoms, LeakyMorse(), skin=0).get_potential_energy(), abs=1e-12
    )


def test_a_negative_skin_is_refused(mace):
    with pytest.raises(ValueError, match="negative"):
        PotentialCalculator(mace, skin=-0.1)


# --- the potential it is given ---------------------------------------------------------------


def test_a_live_potential_is_never_changed(mace):
    potential = copy.deepcopy(mace).train()
    before = [(p.clone(), p.requires_grad, p.dtype) for p in potential.parameters()]
    for options in ({}, {"dtype": "float32"}, {"dtype": torch.float32, "skin": 0.0}):
        atoms = attach(molecule("CH3OH"), potential, **options)
        atoms.get_potential_energy()
        atoms.get_forces()
        for p, (old, flag, dtype) in zip(potential.parameters(), before, strict=True):
            assert torch.equal(p, old)
            assert (p.requires_grad, p.dtype, p.grad) == (flag, dtype, None)
        assert potential.training


def test_precision(small_mace, model_file):
    atoms = molecule("CH3OH")
    exact = attach(atoms, small_mace)
    for source in (small_mace, model_file):
        single = attach(atoms, source, dtype="float32")
        assert single.calc.potential.dtype == torch.float32
        assert single.get_potential_energy() == pytest.approx(
            exact.get_potential_energy(), abs=1e-4
        )
        np.testing.assert_allclose(single.get_forces(), exact.get_forces(), atol=1e-4)
        assert single.get_forces().dtype == np.float64


def test_from_a_file(small_mace, model_file):
    atoms = molecule("CH3OH")
    for path in (model_file, str(model_file)):
        found = attach(atoms, path)
        assert found.get_potential_energy() == attach(atoms, small_mace).get_potential_energy()
        assert not any(p.requires_grad for p in found.calc.potential.parameters())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(mace, copier):
    atoms = attach(molecule("CH3OH"), mace)
    energy = atoms.get_potential_energy()
    again = copier(atoms)
    again.positions += 0.01
    assert again.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    again.positions[0] += 0.3
    assert again.get_potential_energy() != pytest.approx(energy, abs=1e-6)
    assert atoms.get_potential_energy() == energy


def test_direct_forces_are_passed_on():
    potential = Curl(Morse())
    atoms = attach(molecule("H2O"), potential)
    assert not atoms.calc.conservative
    curl = np.cross([0, 0, 0.3], atoms.positions)
    expected = attach(atoms, potential.base).get_forces() + curl
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-12)


@pytest.mark.parametrize("potential", [Harmonic(2.0), Cubic(), Morse()])
def test_toys_have_right_forces(potential):
    atoms = molecule("CH3OH")
    forces = attach(atoms, potential).get_forces()
    expected = calculate_numerical_forces(attach(atoms, potential), eps=1e-4)
    np.testing.assert_allclose(forces, expected, atol=1e-6)


# --- bad input -------------------------------------------------------------------------------


def test_unknown_elements_are_named(mace):
    with pytest.raises(UserError, match=r"does not know.*\bN \(atom 0\).*H, C, O"):
        attach(molecule("NH3"), mace).get_potential_energy()
    for number, name in ((2, "He"), (0, "X"), (119, "Z=119"), (-1, "Z=-1"), (10**6, "Z=1000000")):
        atoms = molecule("H2O")
        atoms.numbers[[1, 2]] = number
        for form in (mace, DirectPotential(mace)):
            with pytest.raises(UserError, match=rf"{name} \(atom 1\); it knows H, C, O"):
                attach(atoms, form).get_potential_energy()
    with pytest.raises(UserError, match=r"N \(atom 0\), Si \(atom 1\)"):
        PotentialCalculator(mace).calculate_many([molecule("H2O"), Atoms("NSi")])


def test_positions_that_are_not_finite_are_refused(mace):
    atoms = attach(molecule("H2O"), mace)
    atoms.get_potential_energy()
    atoms.positions[1, 2] = np.nan
    for ask in (atoms.get_potential_energy, atoms.get_forces):
        with pytest.raises(UserError, match="NaN"):
            ask()
    atoms.positions[1, 2] = 0.0
    assert np.isfinite(atoms.get_potential_energy())


def test_bad_arguments(mace, tmp_path):
    with pytest.raises(UserError, match="no such model file"):
        PotentialCalculator(tmp_path / "none.safetensors")
    with pytest.raises(CalculatorError, match="compile"):
        PotentialCalculator(Morse(), compile=True)
    for wrong in ({"dtype": "float1"}, {"device": "abacus"}, {"dtype": "int64"}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))}"):
            PotentialCalculator(mace, **wrong)


# --- keywords --------------------------------------------------------------------------------

UNKNOWN = {
    "devcie": "has no keyword 'devcie': did you mean 'device'",
    "dytpe": "did you mean 'dtype'",
    "Head": "did you mean 'head'",
    "default_dtype": "its name here is dtype",
    "model_paths": "as the first argument",
    "models": "use CommitteeCalculator",
    "compile_mode": "its name here is compile",
    "enable_cueq": "compile",
    "charges_key": "not supported",
    "label": "it has",
    "directory": "it has",
    "command": "it has",
    "restart": "it has",
    "kpts": "it has",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_keywords_are_errors(name):
    calculators = {
        PotentialCalculator: Morse(),
        CommitteeCalculator: [Morse(), Morse()],
        GuardedCalculator: EMT(),
    }
    for cls, first in calculators.items():
        with pytest.raises(TypeError, match=f"{cls.__name__} has no keyword '{name}'"):
            cls(first, **{name: "cpu"})
        with pytest.raises(TypeError, match=f"'{name}' cannot be set"):
            cls(first).set(**{name: "cpu"})
    with pytest.raises(TypeError, match=UNKNOWN[name]):
        PotentialCalculator(Morse(), **{name: "cpu"})


def test_atoms_get_the_calculator_once_it_is_made():
    for cls, first in ((PotentialCalculator, Morse()), (GuardedCalculator, EMT())):
        atoms = molecule("H2O")
        calculator = cls(first, atoms=atoms)
        assert atoms.calc is calculator
    atoms = molecule("H2O")
    assert CommitteeCalculator([Morse(), Morse()], atoms=atoms) is atoms.calc
    atoms = molecule("H2O")
    with pytest.raises(UserError):
        PotentialCalculator("none.safetensors", atoms=atoms)
    assert atoms.calc is None


def test_without_atoms():
    for calculator in (
        PotentialCalculator(Morse()),
        CommitteeCalculator([Morse(), Morse()]),
        GuardedCalculator(EMT()),
    ):
        for ask in (
            calculator.get_potential_energy,
            lambda c=calculator: c.get_property("energy"),
            lambda c=calculator: c.calculate(),
        ):
            with pytest.raises(CalculatorSetupError, match=r"no atoms: .*get_property\("):
                ask()
        assert calculator.get_property("energy", allow_calculation=False) is None


# --- devices ---------------------------------------------------------------------------------


class Elsewhere(torch.nn.Module):
    """A potential whose weights are said to be on a GPU, on a machine that has none."""

    r_max, atomic_numbers, conservative, skin_safe = 2.0, (1, 8), True, True
    dtype = torch.float64
    moves = ()

    def __init__(self, device="cuda:0"):
        super().__init__()
        self.device = torch.device(device)

    def to(self, *where):
        moved = copy.deepcopy(self)
        moved.moves = (*self.moves, *where)
        moved.device = next((w for w in where if isinstance(w, torch.device)), self.device)
        return moved


def test_a_live_potential_is_used_where_it_is(monkeypatch):
    potential = Elsewhere()
    calculator = PotentialCalculator(potential)
    assert calculator.potential is potential
    assert calculator.graph.device == torch.device("cuda:0")
    assert calculator.in_float64().graph.device == torch.device("cuda:0")
    committee = CommitteeCalculator([potential, Elsewhere("cpu")])
    assert [m.graph.device.type for m in committee.members] == ["cuda", "cpu"]
    moved = PotentialCalculator(potential, device="cpu")
    assert moved.potential is not potential
    assert moved.potential.moves == (torch.device("cpu"),)
    assert moved.graph.device == torch.device("cpu")
    assert potential.moves == ()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for same in ("cuda", "cuda:0", torch.device("cuda", 0)):
        assert PotentialCalculator(potential, device=same).potential is potential
    other = PotentialCalculator(potential, device="cuda:1")
    assert other.graph.device == torch.device("cuda:1")


def test_a_live_potential_in_its_precision(mace):
    for potential in (mace, copy.deepcopy(mace).float()):
        calculator = PotentialCalculator(potential)
        assert calculator.potential is potential
        assert calculator.graph.dtype == potential.dtype
        assert calculator.graph.device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_no_such_gpu(mace, model_file, device):
    for source in (mace, model_file):
        with pytest.raises(UserError, match=r"device 'cuda.*': this machine has no such CUDA"):
            PotentialCalculator(source, device=device)
    with pytest.raises(UserError, match="expected auto, cpu"):
        PotentialCalculator(mace, device=3.5)  # pyright: ignore[reportArgumentType]


# --- at work ---------------------------------------------------------------------------------


def test_relaxation():
    atoms = attach(molecule("CH3OH"), Morse())
    with BFGS(atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=0.02, steps=200)
    assert abs(atoms.get_forces()).max() < 0.02


def test_molecular_dynamics_conserves_energy():
    atoms = attach(molecule("CH3OH"), Morse(depth=4.0, r_max=2.0))
    with BFGS(atoms, logfile=None) as optimiser:
        optimiser.run(fmax=0.05, steps=200)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    start = atoms.get_total_energy()
    VelocityVerlet(atoms, 0.25 * units.fs).run(20)
    assert atoms.get_kinetic_energy() > 0
    assert atoms.get_total_energy() == pytest.approx(start, abs=2e-3)


def test_relaxing_a_cell():
    from ase.filters import FrechetCellFilter

    potential = Morse(r0=2.3, r_max=4.5)
    crystal = bulk("Si", "fcc", a=3.0)
    atoms = attach(crystal, potential)
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimiser:
        optimiser.run(fmax=0.01, steps=100)
    np.testing.assert_allclose(atoms.get_stress(), 0.0, atol=1e-3)


# --- many structures -------------------------------------------------------------------------


def test_many_at_once_equal_one_at_a_time(mace):
    structures = [molecule("CH3OH"), molecule("H2O"), bulk("C", cubic=True), molecule("O")]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=k)
        atoms.positions += 30.0 * k
    for batch_atoms in (5, 2000):
        calculator = PotentialCalculator(mace)
        found = calculator.calculate_many(structures, ["energy", "forces"], batch_atoms=batch_atoms)
        assert calculator.results == {}
        for atoms, results in zip(structures, found, strict=True):
            atoms.calc = PotentialCalculator(mace)
            assert results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
            np.testing.assert_allclose(results["forces"], atoms.get_forces(), atol=1e-5)
            np.testing.assert_allclose(
                results["energies"], atoms.get_potential_energies(), atol=1e-5
            )


def test_many_with_stress(mace):
    crystals = [bulk("C", cubic=True), bulk("C", "fcc", a=3.0)]
    found = PotentialCalculator(mace).calculate_many(crystals, ["stress"])
    for atoms, results in zip(crystals, found, strict=True):
        atoms.calc = PotentialCalculator(mace)
        np.testing.assert_allclose(results["stress"], atoms.get_stress(), atol=1e-6)
    with pytest.raises(PropertyNotImplementedError, match="structure 1"):
        PotentialCalculator(mace).calculate_many([crystals[0], molecule("H2O")], ["stress"])


def test_none_at_all(mace):
    assert PotentialCalculator(mace).calculate_many([]) == []


def test_pickling(mace):
    atoms = attach(molecule("CH3OH"), mace)
    forces = atoms.get_forces()
    again = pickle.loads(pickle.dumps(atoms.calc))
    other = molecule("CH3OH")
    other.calc = again
    np.testing.assert_allclose(other.get_forces(), forces, atol=1e-6)


# --- compiled --------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_md_gives_the_same_and_compiles_once(small_mace):
    from torch._dynamo.utils import counters

    atoms = molecule("CH3OH")
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    eager, compiled = atoms.copy(), atoms.copy()
    eager.calc = PotentialCalculator(small_mace, skin=0.05)
    compiled.calc = PotentialCalculator(small_mace, skin=0.05, compile=True)
    compiled.get_forces()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    for a in (eager, compiled):
        VelocityVerlet(a, 0.5 * units.fs).run(40)
    assert compiled.calc.graph.builds > 3  # lists of other lengths came by
    assert counters["stats"]["unique_graphs"] == graphs
    np.testing.assert_allclose(compiled.positions, eager.positions, atol=1e-9)
    np.testing.assert_allclose(compiled.get_forces(), eager.get_forces(), atol=1e-9)
