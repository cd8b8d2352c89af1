"""Every architecture that upstream makes: what is done with it stands in the README."""

import sys
import types

import numpy as np
import pytest
import torch
from ase.build import molecule
from upstream_models import ELEMENTS, EVERY_HEAD, TABLE, UPSTREAM, build_upstream
from upstream_table import compare, row, table_in_readme

from ase_ws import PotentialCalculator
from ase_ws.errors import UnsafeFileError, UserError
from ase_ws.potentials.files import load_potential

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = {name: what for what, members in TABLE.items() for name in members}
#: The first of each row, and those of which every head is compared.
SOME = list(dict.fromkeys([*(next(iter(members)) for members in TABLE.values()), *EVERY_HEAD]))


def test_the_table_has_these_rows_and_no_others():
    assert len(UPSTREAM) == sum(len(members) for members in TABLE.values())
    lines = table_in_readme().splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(TABLE)


@pytest.mark.parametrize("name", SOME)
def test_the_table_says_what_is_found(upstream, tmp_path, name):
    found = compare(upstream, name, tmp_path, every_head=name in EVERY_HEAD)
    assert row(ROWS[name], found) in table_in_readme()


@pytest.mark.every_architecture
@pytest.mark.parametrize("name", UPSTREAM)
def test_all_of_a_row_do_alike(upstream, tmp_path, name):
    assert row(ROWS[name], compare(upstream, name, tmp_path)) in table_in_readme()


# --- footnote ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chebyshev", "bessel"])
def test_forces_of_chebyshev_functions_are_not_the_slope(upstream, tmp_path, name):
    """Upstream's are not, so ours are not."""
    path = tmp_path / "up.model"
    torch.save(build_upstream(upstream, radial_type=name, distance_transform="Agnesi"), path)
    theirs = upstream.calculators.MACECalculator(model_paths=str(path), default_dtype="float64")
    for calculator in (theirs, PotentialCalculator(path)):
        atoms = molecule("CH3OH")
        atoms.calc = calculator
        forces = atoms.get_forces()
        slope = calculator.calculate_numerical_forces(atoms, d=1e-4)
        difference = abs(forces - slope).max() / abs(slope).max()
        assert difference > 0.1 if name == "chebyshev" else difference < 1e-5


# --- refused by design -------------------------------------------------------------------------


def dipole_model(mace_package, kind):
    """Give a model of one of upstream's classes for dipoles."""
    from e3nn import o3

    blocks = mace_package.modules.blocks
    energies = {"atomic_energies": np.zeros(3) if kind == "EnergyDipolesMACE" else None}
    return getattr(mace_package.modules, kind)(
        r_max=4.0,
        num_bessel=5,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=blocks.RealAgnosticInteractionBlock,
        num_interactions=2,
        num_elements=3,
        hidden_irreps=o3.Irreps("4x0e+4x1o+4x2e"),
        MLP_irreps=o3.Irreps("4x0e+4x1o+4x2e"),
        avg_num_neighbors=5.5,
        atomic_numbers=ELEMENTS,
        correlation=1,
        gate=torch.nn.functional.silu,
        radial_MLP=[12],
        **energies,
    )


@pytest.mark.parametrize("kind", ["AtomicDipolesMACE", "EnergyDipolesMACE", "AtomicDielectricMACE"])
def test_dipole_models_are_refused(upstream, tmp_path, kind):
    path = tmp_path / "dipole.model"
    torch.save(dipole_model(upstream, kind), path)
    with pytest.raises(UserError, match=f"holds an {kind}, expected a MACE") as error:
        load_potential(path)
    assert "\n" not in str(error.value)


class Les(torch.nn.Module):
    """Stands for the class of the package `les`, which is not needed for the refusal."""

    __module__ = "les"

    def __init__(self, les_arguments):
        super().__init__()


def test_les_models_are_refused(upstream, tmp_path, monkeypatch):
    package = types.ModuleType("les")
    package.Les = Les
    monkeypatch.setitem(sys.modules, "les", package)
    monkeypatch.setattr(
        upstream.modules, "ScaleShiftMACE", sys.modules["mace.modules.extensions"].MACELES
    )
    path = tmp_path / "les.model"
    torch.save(build_upstream(upstream), path)
    with pytest.raises(UnsafeFileError, match=r"names 'les\.Les', which no MACE model needs"):
        load_potential(path)


@pytest.mark.parametrize("gate", [torch.sigmoid, torch.nn.functional.gelu])
def test_other_gates_are_refused(upstream, tmp_path, gate):
    """Upstream's constructors take any function."""
    path = tmp_path / "gate.model"
    torch.save(build_upstream(upstream, gate=gate), path)
    with pytest.raises(UserError, match=r"'silu', 'tanh', 'abs' or 'none'|gelu', which no MACE"):
        load_potential(path)
