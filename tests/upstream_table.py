"""Compare every network of `upstream_models` with upstream, and write the README's table of them.

`python tests/upstream_table.py` does so.
"""

import copy
import functools
import os
import re
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from upstream_models import HEADS, TABLE, upstream_model

from ase_ws import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.graphs import collate, graph
from ase_ws.potentials.files import load_potential, save_potential
from ase_ws.potentials.mace import model as model_module
from ase_ws.potentials.mace.lean.model import LeanMACE
from ase_ws.potentials.mace.upstream import export_upstream


def structures():
    """Give a molecule, a crystal and a slab, in which every element meets every other."""
    methanol, oxide = molecule("CH3OH"), bulk("C", "diamond", a=3.2)
    methanol.rattle(0.05, seed=1)
    oxide.numbers[1] = 8
    oxide.rattle(0.05, seed=2)
    slab = Atoms("C2O", [[0.1, 0, 0], [1.3, 1.2, 0.2], [0.3, 0.2, 1.3]], pbc=(True, True, False))
    slab.set_cell([[2.6, 0, 0], [0.4, 2.7, 0], [0, 0, 20]])
    return [methanol, oxide, slab]


class Found(NamedTuple):
    """Cells of a row: whether it is read, evaluated in the lean form, and exported."""

    read: str
    lean: str
    exported: str


class Values(NamedTuple):
    """Of all structures; the stress of those that are periodic in all directions."""

    energies: np.ndarray
    forces: np.ndarray
    stress: np.ndarray


def by_calculator(calculator):
    """Give what an ASE calculator says."""
    energies, forces, stress = [], [], []
    for atoms in structures():
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        if atoms.pbc.all():
            stress.append(atoms.get_stress(voigt=False))
    return Values(np.array(energies), np.concatenate(forces), np.array(stress))


def by_potential(potential):
    """Give what a potential says, in its plain form and of all structures at once."""
    graphs = [
        graph(a.numbers, a.positions, a.cell.array, a.pbc, cutoff=potential.r_max)
        for a in structures()
    ]
    batch = collate(graphs).to("cpu", torch.float64)
    with torch.no_grad():
        found = potential(batch, forces=True, stress=True)
    periodic = [atoms.pbc.all() for atoms in structures()]
    return Values(found.energy.numpy(), found.forces.numpy(), found.stress.numpy()[periodic])


def upstreams(mace_package, path):
    """Give what upstream's calculator says of a file, by head."""
    calculator = functools.partial(
        mace_package.calculators.MACECalculator, device="cpu", default_dtype="float64"
    )
    models = calculator(model_paths=str(path), head=HEADS[0]).models
    return {head: by_calculator(calculator(models=models, head=head)) for head in HEADS}


def assert_same(found, expected):
    """Compare energies, forces and stress, to 1e-10 of eV and Å."""
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


@contextmanager
def built_once(mace_package):
    """Let this package build each network once, and copy it when asked for the same again.

    Building is most of the time that loading takes; all weights of the copy are then loaded.
    """
    build, last = model_module.modules.ScaleShiftMACE, {}

    def give(atomic_energies, **arguments):
        key = torch.get_default_dtype(), repr(sorted(arguments.items()))
        if key not in last:
            last.clear()
            last[key] = build(atomic_energies=atomic_energies, **arguments)
            model_module.make_copyable(last[key])
        network = copy.deepcopy(last[key])
        network.atomic_energies_fn = mace_package.modules.AtomicEnergiesBlock(atomic_energies)
        return network

    model_module.modules.ScaleShiftMACE = give
    try:
        yield
    finally:
        model_module.modules.ScaleShiftMACE = build


def compare(mace_package, name, folder, *, every_head=True):
    """Read, save and export a network, and compare every file with upstream.

    Parameters
    ----------
    mace_package : module
        Upstream's, as the fixture `upstream` gives it.
    name : str
        Of `UPSTREAM`.
    folder : Path
        For the files.
    every_head : bool
        Compare every head in every file, or one in each, which takes half the time.

    Returns
    -------
    Found
        What happened, for the table.

    Raises
    ------
    AssertionError
        Numbers differ; or what upstream cannot evaluate is not refused in one line.
    """
    try:
        model = upstream_model(mace_package, name)
    except (AssertionError, IndexError, TypeError):
        return Found("upstream cannot build it", "–", "–")
    path = folder / "up.model"
    torch.save(model, path)
    with built_once(mace_package):
        try:
            expected = upstreams(mace_package, path)
        except RuntimeError:
            return Found(f"upstream cannot evaluate it: {_refused(path)}", "–", "–")
        assert_telling(expected)
        return _compare(mace_package, path, expected, every_head)


def _compare(mace_package, path, expected, every_head):
    some = [HEADS if every_head else HEADS[k : k + 1] for k in range(3)]
    read = [_compare_calculator(path, head, expected) for head in some[0]]
    own = save_potential(read[0].potential, path.with_name("own.safetensors"))
    again = [_compare_plain(own, head, expected) for head in some[1]]
    exported = export_upstream(again[0], path.with_name("again.model"))
    for head in some[2]:
        _compare_plain(exported, head, expected)
    for head, values in upstreams(mace_package, exported).items():
        assert_same(values, expected[head])
    (lean,) = {isinstance(calculator.evaluator, LeanMACE) for calculator in read}
    return Found("yes", "yes" if lean else "upstream's own", "yes")


def _compare_calculator(path, head, expected):
    calculator = PotentialCalculator(path, head=head)
    assert_same(by_calculator(calculator), expected[head])
    assert_same(by_potential(calculator.potential), expected[head])
    return calculator


def _compare_plain(path, head, expected):
    potential = load_potential(path, head=head)
    assert_same(by_potential(potential), expected[head])
    return potential


def assert_telling(expected):
    """The heads differ, and forces and stress are far above what is compared."""
    assert min(np.ptp([each.energies for each in expected.values()], axis=0)) > 1.0
    for each in expected.values():
        assert abs(each.forces).max() > 1e-4
        assert abs(each.stress).max() > 1e-6


def _refused(path):
    try:
        load_potential(path, head=HEADS[0])
    except UserError as error:
        assert "\n" not in str(error)
        return "refused"
    raise AssertionError("what upstream cannot evaluate was loaded")


# --- the table -------------------------------------------------------------------------------

README = Path(__file__).parents[1] / "ase_ws" / "potentials" / "README.md"
_BEGIN, _END = "<!-- table of architectures: begin -->\n", "<!-- table of architectures: end -->\n"
_BETWEEN = re.compile(f"(?<={re.escape(_BEGIN)}).*(?={re.escape(_END)})", re.DOTALL)
_HEAD = "| architecture | read | lean form | exported |\n| --- | --- | --- | --- |\n"


def row(what, found):
    """Give the line of the table."""
    return f"| {' | '.join((what, *found))} |\n"


def table_in_readme():
    """Give the table as it stands in the README."""
    return _BETWEEN.search(README.read_text(encoding="utf-8"))[0]


def make_table(mace_package, folder):
    """Compare all networks, and give the table; those of one row must do alike."""
    lines = [_HEAD]
    for what, members in TABLE.items():
        (found,) = {compare(mace_package, name, folder) for name in members}
        lines.append(row(what, found))
    return "".join(lines)


def main():
    """Write the table in the README anew."""
    # Upstream's own files are pickles of whole models.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the networks are too small to share
    import mace.calculators
    import mace.modules

    with tempfile.TemporaryDirectory() as folder:
        table = make_table(mace, Path(folder))
    text = README.read_text(encoding="utf-8")
    README.write_text(_BETWEEN.sub(lambda _: table, text), encoding="utf-8")


if __name__ == "__main__":
    main()
