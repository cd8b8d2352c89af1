"""Outputs of other programs: what is learnt is what they print, in eV and Å, with ASE's signs.

The files in `data/programs` are written by hand in the format of each program, with the numbers
of a Morse potential, so that energies, forces and stress of one file belong together. What they
say is read here once more, by their headings and in their own units, without ASE.

| file | as written by | frames |
| --- | --- | --- |
| `OUTCAR`, `vasprun.xml` | VASP, one relaxation with smearing and ISIF = 3 | 3 |
| `orca.out` | ORCA, an optimisation; its last energy comes without a gradient | 3 |
| `gaussian.log` | Gaussian, an optimisation in input and standard orientation | 2 |
| `aims.out` | FHI-aims, a relaxation with the analytical stress and smearing | 2 |
| `espresso.pwo` | Quantum ESPRESSO, vc-relax | 3 |
| `cp2k.xyz` | scripts that collect CP2K runs: a virial in eV | 3 |
| `water-pos-1.xyz`, `water-frc-1.xyz`, `cp2k.out` | CP2K itself | 3 |
| `mace.xyz`, `mace_virials.xyz` | users of `mace_run_train`, with isolated atoms | 8 |
"""

import bz2
import gzip
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from ase.io import read

from ase_ws.errors import UserError
from ase_ws.frames import LabelKeys, read_frames
from ase_ws.potentials.files import load_potential, read_header, save_potential
from ase_ws.testing import tiny_mace

DATA = Path(__file__).parents[1] / "data" / "programs"

# CODATA 2018; programs and ASE use older sets too, 1e-7 away.
HARTREE = 27.211386245988
RYDBERG = HARTREE / 2
BOHR = 0.529177210903
KBAR = 1 / 1602.176634  # in eV/Å³
UNITS = 2e-7

NUMBER = re.compile(r"-?\d+\.\d+(?:[eED][-+]?\d+)?")


@dataclass(frozen=True)
class Program:
    """How one program prints its results.

    Attributes
    ----------
    energy : regular expression whose group is one energy
    forces, stress : heading, lines between it and the numbers, columns of them
    *_unit : what the printed number is multiplied with
    """

    file: str
    formula: str
    periodic: bool
    energy: str
    energy_unit: float
    forces: tuple[str, int, slice]
    forces_unit: float
    stress: tuple[str, int, slice] | None = None
    stress_unit: float = 0.0
    with_forces: int | None = None
    energy_key: str = "energy"
    stress_key: str = "stress"

    @property
    def path(self) -> Path:
        return DATA / self.file

    @property
    def symbols(self) -> list[str]:
        return re.findall("[A-Z][a-z]?", self.formula)

    @property
    def numbers(self) -> list[int]:
        return [chemical_symbols.index(s) for s in self.symbols]

    @property
    def keys(self) -> LabelKeys:
        return LabelKeys(energy=self.energy_key, forces="forces", stress=self.stress_key)

    @property
    def options(self) -> list[str]:
        """Of `finetune`."""
        return [
            *("--set", f"data.energy_key={self.energy_key}"),
            *("--set", f"data.stress_key={self.stress_key}"),
        ]

    def energies(self) -> list[float]:
        found = re.findall(self.energy, self.path.read_text(), re.M)
        return [self.energy_unit * float(text) for text in found]

    def all_forces(self) -> list[np.ndarray]:
        return self._blocks(self.forces, len(self.symbols), self.forces_unit)

    def all_stresses(self) -> list[np.ndarray]:
        return [] if self.stress is None else self._blocks(self.stress, 3, self.stress_unit)

    def _blocks(self, where: tuple[str, int, slice], rows: int, unit: float) -> list[np.ndarray]:
        heading, skip, columns = where
        lines = self.path.read_text().splitlines()
        starts = [k + 1 + skip for k, line in enumerate(lines) if heading in line]
        return [
            unit
            * np.array(
                [[float(x) for x in NUMBER.findall(line)][columns] for line in lines[k : k + rows]]
            )
            for k in starts
        ]


class Outcar(Program):
    """The stress stands in one line, XX YY ZZ XY YZ ZX."""

    def all_stresses(self):
        found = []
        for line in re.findall(r"^  in kB (.*)$", self.path.read_text(), re.M):
            xx, yy, zz, xy, yz, zx = (float(x) for x in line.split())
            full = np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
            found.append(self.stress_unit * full)
        return found


class Virials(Program):
    """A virial W = −V σ in eV, row by row in the comment line; the cell is orthorhombic."""

    def all_stresses(self):
        text = self.path.read_text()
        volumes = [
            np.prod([float(x) for x in cell.split()][::4])
            for cell in re.findall('Lattice="(.*?)"', text)
        ]
        virials = [
            np.array([float(x) for x in virial.split()]).reshape(3, 3)
            for virial in re.findall('virial="(.*?)"', text)
        ]
        return [-w / v for w, v in zip(virials, volumes, strict=True)]


LAST3, FIRST3 = slice(-3, None), slice(0, 3)
PROGRAMS = {
    "VASP OUTCAR": Outcar(
        "OUTCAR",
        "SiC",
        periodic=True,
        energy=r"free  energy   TOTEN  = +(\S+) eV",
        energy_unit=1.0,
        forces=("TOTAL-FORCE (eV/Angst)", 1, LAST3),
        forces_unit=1.0,
        # VASP prints the pressure-like tensor: positive under compression.
        stress_unit=-KBAR,
        energy_key="free_energy",
    ),
    "VASP vasprun.xml": Program(
        "vasprun.xml",
        "SiC",
        periodic=True,
        energy=r'</varray>\s+<energy>\s+<i name="e_fr_energy"> +(\S+) <',
        energy_unit=1.0,
        forces=('<varray name="forces" >', 0, LAST3),
        forces_unit=1.0,
        stress=('<varray name="stress" >', 0, LAST3),
        stress_unit=-KBAR,
        energy_key="free_energy",
    ),
    "ORCA": Program(
        "orca.out",
        "OHH",
        periodic=False,
        energy=r"FINAL SINGLE POINT ENERGY +(\S+)",
        energy_unit=HARTREE,
        # A gradient, so the sign turns.
        forces=("CARTESIAN GRADIENT", 2, LAST3),
        forces_unit=-HARTREE / BOHR,
        with_forces=2,
    ),
    "Gaussian": Program(
        "gaussian.log",
        "OCHH",
        periodic=False,
        energy=r"SCF Done:  E\(.*\) = +(\S+) +A\.U\.",
        energy_unit=HARTREE,
        forces=("Forces (Hartrees/Bohr)", 2, LAST3),
        forces_unit=HARTREE / BOHR,
    ),
    "FHI-aims": Program(
        "aims.out",
        "MgO",
        periodic=True,
        # Not the one per atom, and not the internal energies beside it.
        energy=r"Electronic free energy        : +(\S+) eV$",
        energy_unit=1.0,
        forces=("Total atomic forces", 0, LAST3),
        forces_unit=1.0,
        stress=("Cartesian components [eV/A**3]", 3, LAST3),
        stress_unit=1.0,
    ),
    "Quantum ESPRESSO": Program(
        "espresso.pwo",
        "SiSi",
        periodic=True,
        energy=r"^! +total energy += +(\S+) Ry",
        energy_unit=RYDBERG,
        forces=("Forces acting on atoms", 1, LAST3),
        forces_unit=RYDBERG / BOHR,
        stress=("total   stress  (Ry/bohr**3)", 0, FIRST3),
        stress_unit=-RYDBERG / BOHR**3,
    ),
    "CP2K, collected": Virials(
        "cp2k.xyz",
        "OHHOHH",
        periodic=True,
        energy=r"energy=(\S+) ",
        energy_unit=1.0,
        forces=("Lattice=", 0, LAST3),
        forces_unit=1.0,
        stress_key="virial",
    ),
}

# FHI-aims' reader will move out of ASE; ORCA's doubts every run that is no relaxation.
pytestmark = [
    pytest.mark.filterwarnings("ignore:FHI-aims IO is moving"),
    pytest.mark.filterwarnings("ignore:.*Geometry optimization did not converge"),
    pytest.mark.filterwarnings("ignore:.*Calculation did not finish"),
]


@pytest.fixture(params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]


@pytest.fixture(scope="session")
def flat_model(tmp_path_factory):
    """For any elements: a model of 1, 2, ... × −7.5 eV for each element and no forces at all."""
    folder, made = tmp_path_factory.mktemp("flat"), {}

    def make(elements):
        elements = tuple(sorted(set(elements)))
        if elements not in made:
            flat = tiny_mace(
                elements,
                e0=[-7.5 * (k + 1) for k in range(len(elements))],
                num_interactions=1,
                correlation=1,
                scale=(1e-9,),
            )
            name = "-".join(map(str, elements))
            made[elements] = save_potential(flat, folder / f"{name}.safetensors")
        return made[elements]

    return make


def write(path, text):
    path.write_text(text)
    return path


def flat_energy(numbers):
    elements = sorted(set(numbers))
    return sum(-7.5 * (elements.index(z) + 1) for z in numbers)


# --- labels ----------------------------------------------------------------------------------


def test_labels_are_what_the_program_prints(program):
    frames = read_frames(program.path, program.keys)
    energies, forces, stresses = (
        program.energies(),
        program.all_forces(),
        program.all_stresses(),
    )
    assert len(frames) == len(energies) > 1
    assert len(forces) == (program.with_forces or len(frames))
    assert len(stresses) == (len(frames) if program.periodic else 0)
    for k, frame in enumerate(frames):
        assert frame.numbers.tolist() == program.numbers
        assert frame.pbc.all() == program.periodic
        assert frame.energy == pytest.approx(energies[k], rel=UNITS)
        if k < len(forces):
            np.testing.assert_allclose(frame.forces, forces[k], rtol=UNITS, atol=1e-9)
            assert abs(forces[k]).max() > 0.05
        else:
            assert frame.forces is None
        if stresses:
            np.testing.assert_allclose(frame.stress, stresses[k], rtol=1e-6, atol=1e-9)
            # All six of them differ: neither sign nor order can slip.
            six = frame.stress[np.triu_indices(3)]
            assert min(abs(a - b) for i, a in enumerate(six) for b in six[:i]) > 3e-5
        else:
            assert frame.stress is None


def work(before, after):
    """Energy that the labels say is gained between two frames, by the trapezoidal rule."""
    strain = np.zeros((3, 3))
    gained = 0.0
    if before.pbc.all():
        strain = np.linalg.solve(before.cell, after.cell) - np.eye(3)
        volumes = [abs(np.linalg.det(f.cell)) for f in (before, after)]
        mean = 0.5 * (volumes[0] * before.stress + volumes[1] * after.stress)
        gained = float((mean * strain).sum())
    moved = after.positions - before.positions @ (np.eye(3) + strain)
    return gained - float((0.5 * (before.forces + after.forces) * moved).sum())


def test_the_labels_of_a_run_belong_together(program):
    """ΔE = −F·Δr + V σ:ε from one step to the next: units, signs and the choice of the energy."""
    frames = [f for f in read_frames(program.path, program.keys) if f.forces is not None]
    for before, after in itertools.pairwise(frames):
        change = after.energy - before.energy
        assert change < -0.005
        assert work(before, after) == pytest.approx(change, rel=0.01)
        assert abs(after.forces.sum(axis=0)).max() < 1e-6
        if not after.pbc.any():
            # Forces and positions in the same orientation have no torque.
            torque = np.cross(after.positions, after.forces).sum(axis=0)
            assert abs(torque).max() < 1e-4


VASP = ("OUTCAR", "vasprun.xml")
FREE = ("--energy-key", "free_energy")


@pytest.mark.parametrize("file", VASP)
def test_vasp_has_two_energies_and_which_is_taken_is_said(cli, flat_model, file):
    """The forces are the gradient of the free energy; energy(sigma->0) is another number."""
    text = (DATA / "OUTCAR").read_text()
    free = PROGRAMS["VASP OUTCAR"].energies()
    pattern = r"energy  without entropy= .*energy\(sigma->0\) = +(\S+)"
    extrapolated = [float(x) for x in re.findall(pattern, text)]
    named = read_frames(DATA / file, LabelKeys(energy="free_energy"))
    assert [f.energy for f in named] == pytest.approx(free, abs=1e-8)
    plain = read_frames(DATA / file)
    assert [f.energy for f in plain] == pytest.approx(extrapolated, abs=1e-8)
    # From step to step it misses the work of the forces by a fifth.
    changes = np.diff(extrapolated) - [work(a, b) for a, b in itertools.pairwise(plain)]
    assert abs(changes).max() > 0.01
    model = flat_model((6, 14))
    code, _, err = cli("evaluate", model, DATA / file)
    assert code == 0
    assert re.search("free_energy differs.*forces are its gradient", err)
    assert "free_energy differs" not in cli("evaluate", model, DATA / file, *FREE)[2]


def test_both_files_of_vasp_say_the_same():
    outcar, xml = (read_frames(DATA / f, LabelKeys("free_energy")) for f in VASP)
    for a, b in zip(outcar, xml, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-8)
        np.testing.assert_allclose(a.cell, b.cell, atol=1e-8)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-5)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)
        np.testing.assert_allclose(a.stress, b.stress, atol=1e-5 * KBAR)


def test_the_stress_of_espresso_is_its_kbar_too():
    """Two columns of one table: Ry/bohr³ and kbar."""
    lines = (DATA / "espresso.pwo").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if "total   stress" in line) + 1
    kbar = np.array([[float(x) for x in line.split()[3:]] for line in lines[start : start + 3]])
    frame = read_frames(DATA / "espresso.pwo")[0]
    np.testing.assert_allclose(frame.stress, -kbar * KBAR, atol=0.01 * KBAR)


# --- extended XYZ of mace_run_train ----------------------------------------------------------

MACE = {
    "mace.xyz": LabelKeys("REF_energy", "REF_forces", "REF_stress"),
    "mace_virials.xyz": LabelKeys("REF_energy", "REF_forces", "REF_virials"),
}


@pytest.mark.parametrize("file", MACE)
def test_labels_of_mace_run_train(file):
    lines = iter((DATA / file).read_text().splitlines())
    frames = read_frames(DATA / file, MACE[file])
    assert len(frames) == 8
    for k, frame in enumerate(frames):
        n, comment = int(next(lines)), next(lines)
        rows = np.array([[float(x) for x in next(lines).split()[1:]] for _ in range(n)])
        assert frame.energy == float(re.findall(r"REF_energy=(\S+)", comment)[0])
        np.testing.assert_array_equal(frame.positions, rows[:, :3])
        np.testing.assert_array_equal(frame.forces, rows[:, 3:])
        assert (n == 1) == (k < 3) == ("IsolatedAtom" in comment)
        # A cell that is only a box: no periodic images, and no stress.
        assert frame.pbc.tolist() == 3 * ['pbc="T T T"' in comment]
        found = re.findall('REF_(?:stress|virials)="(.*?)"', comment)
        assert (frame.stress is not None) == bool(found) == (k >= 6)
        if found:
            expected = np.array([float(x) for x in found[0].split()]).reshape(3, 3)
            if "virials" in file:
                expected = -expected / abs(np.linalg.det(frame.cell))
            np.testing.assert_allclose(frame.stress, expected, atol=1e-12)
    # The stress is that of tension, whichever way it was written.
    assert np.trace(frames[-1].stress) > 0.5


def test_virials_and_stress_of_one_set_agree():
    stress, virials = (read_frames(DATA / f, keys)[-1].stress for f, keys in MACE.items())
    np.testing.assert_allclose(stress, virials, atol=1e-7)


@pytest.mark.parametrize("file", MACE)
@pytest.mark.parametrize("boxes", ["pbc F", "pbc T"])
def test_finetune_as_mace_run_train_users_do(cli, tmp_path, file, boxes):
    text = (DATA / file).read_text()
    if boxes == "pbc T":
        # As it comes from a program that knows periodic boxes only.
        text = text.replace('pbc="F F F"', 'pbc="T T T"')
    data = write(tmp_path / file, text)
    code, _, err = cli(
        *("finetune", "--train", data, "--valid", data, "--out", tmp_path / "run"),
        *("--set", "data.energy_key=REF_energy", "--set", "data.forces_key=REF_forces"),
        *("--set", f"data.stress_key={MACE[file].stress}", "--set", "loss.stress_weight=10"),
        *QUICK,
    )
    assert code == 0, err
    provenance = read_header(tmp_path / "run" / "model.safetensors")["provenance"]
    # The isolated atoms are reference energies, not structures.
    assert (provenance["n_train"], provenance["n_train_with_forces"]) == (5, 5)
    potential = load_potential(tmp_path / "run" / "model.safetensors")
    assert potential.e0.tolist() == pytest.approx([-13.6, -1029.9, -2041.8])
    assert float(last_row(tmp_path / "run")["train_stress"]) > 0


# --- the four commands -----------------------------------------------------------------------

QUICK = [
    *("--set", "model.hidden_irreps=8x0e", "--set", "model.MLP_irreps=8x0e"),
    *("--set", "model.num_bessel=4", "--set", "model.r_max=4.0"),
    *("--set", "model.correlation=1", "--set", "model.num_interactions=1"),
    *("--set", "optimizer.valid_interval=2", "--set", "optimizer.batch_size=2"),
    *("--max-steps", "2", "--device", "cpu", "--quiet"),
]


def last_row(run):
    names, *rows = ((run / "metrics.csv").read_text().strip()).splitlines()
    return dict(zip(names.split(","), rows[-1].split(","), strict=True))


def test_evaluate(cli, tmp_path, program, flat_model):
    """Against a model of constant energies, where the errors are those of the labels."""
    model = flat_model(program.numbers)
    code, _, err = cli(
        *("evaluate", model, program.path, "--json", tmp_path / "e.json"),
        *("--energy-key", program.energy_key, "--forces-key", "forces"),
    )
    assert code == 0, err
    found = json.loads((tmp_path / "e.json").read_text())
    n = len(program.numbers)
    off = [1e3 * (e - flat_energy(program.numbers)) / n for e in program.energies()]
    forces = 1e3 * np.concatenate(program.all_forces())
    assert found["n_frames"] == len(off)
    assert found["energy_rmse_mev_per_atom"] == pytest.approx(
        np.sqrt(np.mean(np.square(off))), rel=1e-6
    )
    assert found["energy_mae_mev_per_atom"] == pytest.approx(np.mean(np.abs(off)), rel=1e-6)
    assert found["forces_rmse_mev_per_angstrom"] == pytest.approx(
        np.sqrt(np.mean(np.square(forces))), rel=1e-6
    )
    assert found["forces_mae_mev_per_angstrom"] == pytest.approx(np.mean(np.abs(forces)), rel=1e-6)


def test_finetune(cli, tmp_path, program):
    stress = ["--set", "loss.stress_weight=10"] if program.periodic else []
    code, _, err = cli(
        *("finetune", "--train", program.path, "--valid", program.path),
        *("--out", tmp_path / "run", *program.options, *stress, *QUICK),
    )
    assert code == 0, err
    provenance = read_header(tmp_path / "run" / "model.safetensors")["provenance"]
    n = len(program.energies())
    assert provenance["n_train"] == n
    assert provenance["n_train_with_forces"] == (program.with_forces or n)
    row = last_row(tmp_path / "run")
    assert float(row["energy_rmse_mev_per_atom"]) < 5000
    assert float(row["forces_rmse_mev_per_angstrom"]) > 0
    if program.periodic:
        assert float(row["train_stress"]) > 0


def test_md_starts_from_the_last_structure(cli, tmp_path, program, flat_model):
    code, _, err = cli(
        *("md", flat_model(program.numbers), program.path, "--out", tmp_path / "md"),
        *("--steps", "5", "--interval", "5", "--temperature", "20", "--quiet"),
    )
    assert code == 0, err
    frames = read(tmp_path / "md" / "trajectory.extxyz", ":")
    last = read_frames(program.path)[-1]
    assert len(frames) == 2
    assert frames[0].numbers.tolist() == program.numbers
    assert frames[0].pbc.all() == program.periodic
    np.testing.assert_allclose(frames[0].positions, last.positions, atol=1e-6)
    np.testing.assert_allclose(frames[0].cell.array, last.cell, atol=1e-6)


def test_stability_starts_from_the_last_structure(cli, tmp_path, program, flat_model):
    code, _, err = cli(
        *("stability", flat_model(program.numbers), program.path, "--json", tmp_path / "s.json"),
        *("--temperature", "20", "--ps", "0.005", "--no-static", "--quiet"),
    )
    assert code == 1, err  # Five femtoseconds without a failure prove nothing.
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["verdict"] == "inconclusive"
    assert report["failures"] == []
    assert report["total_ps"] == pytest.approx(0.005)


# --- runs that ended early, names and compression --------------------------------------------


def before_last(file, mark):
    text = (DATA / file).read_text()
    assert text.count(mark) > 1
    return text[: text.rindex(mark)]


@pytest.mark.parametrize(
    ("file", "mark"),
    [
        ("OUTCAR", " POSITION    "),
        ("OUTCAR", "  FREE ENERGIE"),
        ("vasprun.xml", "  <scstep>"),
        ("vasprun.xml", '  <varray name="forces"'),
        ("vasprun.xml", "  <energy>"),
        ("espresso.pwo", "     End of self-consistent"),
        ("orca.out", "FINAL SINGLE POINT ENERGY"),
    ],
)
def test_a_step_that_was_not_finished_is_no_frame(tmp_path, file, mark):
    whole = read_frames(DATA / file)
    frames = read_frames(write(tmp_path / file, before_last(file, mark)))
    assert len(frames) == len(whole) - 1
    for a, b in zip(frames, whole, strict=False):
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)


@pytest.mark.parametrize(
    ("file", "mark"),
    [("espresso.pwo", "     Forces acting"), ("gaussian.log", " (Enter /opt/g16/l716.exe)")],
)
def test_a_last_energy_without_forces_stays_without_them(tmp_path, file, mark):
    whole = read_frames(DATA / file)
    frames = read_frames(write(tmp_path / file, before_last(file, mark)))
    assert [f.energy for f in frames] == [f.energy for f in whole]
    assert [f.forces is None for f in frames] == [False] * (len(whole) - 1) + [True]
    assert frames[-1].stress is None


def orca(*, gradient, mark=""):
    """ORCA's first cycle alone, as a single point has it."""
    text = (DATA / "orca.out").read_text()
    text = text[: text.index("ORCA GEOMETRY RELAXATION STEP")]
    if not gradient:
        text = text[: text.index("ORCA SCF GRADIENT")]
    text = re.sub("(FINAL SINGLE POINT ENERGY .*)", rf"\1{mark}", text)
    return text + "\n                             ****ORCA TERMINATED NORMALLY****\n"


def test_a_run_of_aims_that_was_not_finished_is_refused(tmp_path):
    """ASE's reader takes nothing of it; the line says why."""
    text = (DATA / "aims.out").read_text()
    path = write(tmp_path / "aims.out", text[: text.index("  Final atomic structure")])
    with pytest.raises(UserError, match=r"aims.out.*did not complete successfully"):
        read_frames(path)


@pytest.mark.parametrize("gradient", [True, False])
def test_single_points_of_orca(tmp_path, gradient):
    (frame,) = read_frames(write(tmp_path / "sp.out", orca(gradient=gradient)))
    assert frame.energy == pytest.approx(PROGRAMS["ORCA"].energies()[0], rel=UNITS)
    assert (frame.forces is not None) == gradient


def test_an_energy_that_orca_does_not_stand_behind(tmp_path):
    path = write(
        tmp_path / "sp.out", orca(gradient=True, mark=" (Wavefunction not fully converged!)")
    )
    with pytest.raises(UserError, match="frame 0: energy"):
        read_frames(path)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("OUTCAR", "OUTCAR_relax1"),
        ("OUTCAR", "run3.OUTCAR"),
        ("vasprun.xml", "vasprun-2.xml"),
        ("orca.out", "slurm-123456"),
        ("gaussian.log", "gaussian.out"),
        ("espresso.pwo", "pw.log"),
        ("aims.out", "aims"),
    ],
)
def test_other_names(tmp_path, file, name):
    renamed = write(tmp_path / name, (DATA / file).read_text())
    assert [f.energy for f in read_frames(renamed)] == [f.energy for f in read_frames(DATA / file)]


@pytest.mark.parametrize("file", [*VASP, "orca.out", "gaussian.log", "espresso.pwo", "cp2k.xyz"])
@pytest.mark.parametrize(("ending", "packer"), [("gz", gzip), ("bz2", bz2)])
def test_compressed(tmp_path, file, ending, packer):
    packed = tmp_path / f"{file}.{ending}"
    packed.write_bytes(packer.compress((DATA / file).read_bytes()))
    for a, b in zip(read_frames(packed), read_frames(DATA / file), strict=True):
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.positions, b.positions)


# --- CP2K itself -----------------------------------------------------------------------------


def test_files_of_cp2k_without_labels_are_one_line(cli, flat_model):
    """ASE reads no output of CP2K, and from its trajectories structures only."""
    model = flat_model((1, 8))
    for name in ("cp2k.out", "water-pos-1.xyz", "water-frc-1.xyz"):
        code, out, err = cli("evaluate", model, DATA / name)
        assert (code, out) == (2, ""), err
        assert len(err.strip().splitlines()) == 1
        assert name in err


def test_hartree_of_cp2k_are_not_taken_for_electronvolt(cli, flat_model):
    """`E` of "i = 0, time = 0.000, E = -34.89" is in Hartree, as CP2K's manual has it."""
    code, _, err = cli(
        *("evaluate", flat_model((1, 8)), DATA / "water-pos-1.xyz", "--energy-key", "E"),
    )
    assert code == 2, err
    assert "Hartree" in err


def test_a_trajectory_of_cp2k_is_a_structure(cli, tmp_path, flat_model):
    code, _, err = cli(
        *("md", flat_model((1, 8)), DATA / "water-pos-1.xyz", "--out", tmp_path / "md"),
        *("--steps", "5", "--interval", "5", "--temperature", "20", "--quiet"),
    )
    assert code == 0, err
    first = read(tmp_path / "md" / "trajectory.extxyz", "0")
    rows = (DATA / "water-pos-1.xyz").read_text().splitlines()[-6:]
    expected = [[float(x) for x in row.split()[1:]] for row in rows]
    np.testing.assert_allclose(first.positions, expected, atol=1e-6)
