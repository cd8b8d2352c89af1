"""The contract test: lets good potentials pass, and names what is wrong with each bad one."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from ase_ws.graphs import edge_vectors
from ase_ws.pairs import edges
from ase_ws.potentials.mace.direct import DirectPotential
from ase_ws.testing import (
    Harmonic,
    LeakyMorse,
    Morse,
    PotentialContractError,
    tiny_mace,
    validate_potential,
)
from ase_ws.testing.contract.structures import example_structures
from ase_ws.typing import Prediction

ONE_LAYER = {"num_interactions": 1, "correlation": 1, "keep_last_layer_irreps": True}


def broken(potential, structures=None):
    """The points that are found wanting, and the whole message."""
    with pytest.raises(PotentialContractError) as caught:
        validate_potential(potential, structures)
    violations = caught.value.violations
    assert all(violation in str(caught.value) for violation in violations)
    assert type(potential).__name__ in str(caught.value)
    return {violation.partition(":")[0] for violation in violations}, str(caught.value)


# --- good ones -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        Morse,
        LeakyMorse,  # honest about its leak
        lambda: Morse(r_max=6.0, atomic_numbers=(79,), r0=2.9),
        lambda: Morse(r_max=1.5, atomic_numbers=(55, 3), r0=1.0),
        lambda: tiny_mace(e0=(-13.6, -1030.0, -2040.0)),
        lambda: tiny_mace(e0=(-13.6, -1030.0, -2040.0), dtype="float32", **ONE_LAYER),
        lambda: tiny_mace((14,), **ONE_LAYER),
        lambda: DirectPotential(tiny_mace(**ONE_LAYER), seed=1),
        lambda: DirectPotential(tiny_mace(dtype="float32", **ONE_LAYER), seed=1),
    ],
    ids=["morse", "leaky", "gold", "tiny", "mace", "mace32", "silicon", "direct", "direct32"],
)
def test_good_potentials_pass(make):
    potential = make()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert validate_potential(potential) is None
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    assert all(p.grad is None for p in potential.parameters())


def test_structures_of_ones_own():
    structures = [molecule("H2O"), molecule("CH3OH")]
    structures[1].rattle(0.05)
    before = [atoms.copy() for atoms in structures]
    validate_potential(Morse(), structures)
    assert structures == before
    with pytest.raises(ValueError, match="hold Cl, which the potential does not know"):
        validate_potential(Morse(), [molecule("HCl")])
    with pytest.raises(ValueError, match="no structures"):
        validate_potential(Morse(), [])


@pytest.mark.parametrize("elements", [(1, 6, 8), (14,), (79, 1), (3, 17, 55), (1,)])
@pytest.mark.parametrize("r_max", [1.5, 4.0, 7.0])
def test_default_structures_are_worth_looking_at(elements, r_max):
    structures = example_structures(elements, r_max)
    assert structures == example_structures(elements, r_max)
    assert {int(z) for atoms in structures for z in atoms.numbers} <= set(elements)
    assert len({len(atoms) for atoms in structures}) >= 3
    assert sum(len(atoms) == 1 for atoms in structures) == 1
    assert any(atoms.pbc.all() for atoms in structures)
    for atoms in structures:
        if len(atoms) > 1:
            near = edges(atoms.positions, np.array(atoms.cell), atoms.pbc, r_max)[0]
            assert len(set(near[0])) == len(atoms), "every atom has a neighbour"
            assert len(edges(atoms.positions, np.array(atoms.cell), atoms.pbc, 0.5)[0][0]) == 0


# --- bad attributes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("r_max", "4", "r_max must be a positive number in Å, not '4'"),
        ("r_max", 0.0, "r_max must be"),
        ("r_max", float("nan"), "r_max must be"),
        ("r_max", float("inf"), "r_max must be"),
        ("atomic_numbers", [1, 6], "atomic_numbers must be a tuple"),
        ("atomic_numbers", ("H", "C"), "atomic_numbers must be a tuple of whole numbers"),
        ("atomic_numbers", (1, 1), "atomic_numbers must be distinct"),
        ("atomic_numbers", (0,), "within 1 to 118"),
        ("atomic_numbers", (), "atomic_numbers must be"),
        ("conservative", None, "conservative must be True or False, not None"),
        ("skin_safe", 1, "skin_safe must be True or False, not 1"),
    ],
)
def test_attributes(name, value, message):
    potential = Morse()
    setattr(potential, name, value)
    points, text = broken(potential)
    assert points == {"attributes"}
    assert message in text


def test_everything_is_missing():
    class Nothing:
        pass

    points, text = broken(Nothing())
    assert points == {"attributes"}
    for name in ("r_max", "atomic_numbers", "conservative", "skin_safe", "callable"):
        assert name in text


# --- bad answers -----------------------------------------------------------------------------


class Changed(Morse):
    """A Morse potential whose answer is spoilt by `spoil(prediction, batch, asked)`."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def forward(self, batch, **asked):
        return self.spoil(super().forward(batch, **asked), batch, asked)


def replacing(name, function):
    """Spoil one part of the answer, where it is there."""

    def spoil(out, _batch, _asked):
        value = getattr(out, name)
        return out if value is None else out._replace(**{name: function(value)})

    return spoil


def holed(value):
    value = value.clone()
    value.view(-1)[-1] = torch.nan
    return value


def in_voigt(stress):
    return stress.reshape(-1, 9)[:, [0, 4, 8, 5, 2, 1]]


def forces_always(out, batch, asked):
    return out if asked["forces"] else out._replace(forces=torch.zeros_like(batch.positions))


def forces_never(out, _batch, _asked):
    return out._replace(forces=None)


def lost_with_stress(out, _batch, asked):
    return out._replace(forces=0.5 * out.forces) if list(asked.values()) == [True, True] else out


def half_the_energies(out, _batch, _asked):
    return out._replace(energies=0.5 * out.energies)


def in_bits(out, _batch, _asked):
    return out._replace(energy=out.energy.float())


def moving_atoms(out, batch, _asked):
    batch.positions.data.add_(0.01)
    return out


def wanting_gradients(out, batch, _asked):
    batch.cell.requires_grad_()
    return out


def leaving_gradients(out, batch, _asked):
    if batch.positions.requires_grad and out.energy.requires_grad:
        out.energy.sum().backward(retain_graph=True)
    return out


def setting_the_default(out, _batch, _asked):
    torch.set_default_dtype(torch.float64)
    return out


def at_random(out, _batch, _asked):
    at_random.calls += 1
    return out._replace(energy=out.energy + 1e-3 * (at_random.calls % 7))


at_random.calls = 0


def flat_energy(out, _batch, asked):
    return out if any(asked.values()) else out._replace(energy=out.energy.detach())


@pytest.mark.parametrize(
    ("spoil", "point", "message"),
    [
        (lambda out, *_: out._asdict(), "shapes", "expected an ase_ws.typing.Prediction, not dict"),
        (lambda out, *_: tuple(out), "shapes", "Prediction, not tuple"),
        (replacing("energy", lambda e: e[:, None]), "shapes", "energy has shape (5, 1), expected"),
        (replacing("energy", torch.sum), "shapes", "energy has shape ()"),
        (replacing("forces", torch.flatten), "shapes", "forces has shape (57,), expected (19, 3)"),
        (replacing("stress", in_voigt), "shapes", "stress has shape (5, 6), expected (5, 3, 3)"),
        (replacing("energies", lambda e: e[1:]), "shapes", "energies has shape (18,)"),
        (forces_never, "shapes", "forces is NoneType"),
        (replacing("energy", holed), "finite", "energy holds NaN"),
        (replacing("forces", holed), "finite", "forces holds NaN"),
        (replacing("stress", holed), "finite", "stress holds NaN"),
        (replacing("energy", lambda e: e * torch.inf), "finite", "energy holds NaN or infinity"),
        (in_bits, "precision", "energy is torch.float32, expected torch.float64"),
        (setting_the_default, "precision", "changes torch's default dtype"),
        (forces_always, "only what is asked for", "forces there with forces=False, stress=False"),
        (lost_with_stress, "only what is asked for", "forces with forces=True, stress=False not"),
        (half_the_energies, "energies per atom", "sum of energies of"),
        (at_random, "repeatable", "energy of"),
        (moving_atoms, "no mutation", "positions of the batch changed with forces=False"),
        (wanting_gradients, "no mutation", "requires_grad of the batch's cell changed"),
        (leaving_gradients, "no mutation", "a gradient is left in the batch's positions"),
        (replacing("forces", lambda f: -f), "conservative", "forces against -dE/dr: those of"),
        (replacing("forces", lambda f: 1.001 * f), "conservative", "forces against -dE/dr"),
        (replacing("stress", lambda s: -s), "stress", "stress against (1/V) dE/dε: that of"),
        (replacing("stress", lambda s: 160.2 * s), "stress", "periodic, off by"),
        (replacing("forces", torch.Tensor.detach), "create_graph", "forces have no gradient"),
        (flat_energy, "create_graph", "the energy has no gradient with respect to positions"),
    ],
)
def test_answers(spoil, point, message):
    points, text = broken(Changed(spoil))
    assert point in points
    assert message in text
    if point in ("shapes", "finite", "conservative", "stress", "create_graph", "no mutation"):
        assert points == {point}


# --- bad physics -----------------------------------------------------------------------------


class Anisotropic(Morse):
    def atomic_energies(self, batch):
        return super().atomic_energies(batch) + self.field(batch, lambda e: e[:, 0] ** 2)

    def field(self, batch, function):
        e = edge_vectors(batch)
        cutoff = (1 - (e.norm(dim=1) / self.r_max) ** 2).clamp(min=0) ** 3
        out = e.new_zeros(len(batch.positions))
        return out.index_add(0, batch.edge_index[0], 0.01 * cutoff * function(e))


class Chiral(Anisotropic):
    """A triple product of weighted sums over neighbours: changes its sign in a mirror."""

    def atomic_energies(self, batch):
        a, b, c = (
            torch.stack(
                [
                    self.field(batch, lambda e, x=x, p=power: 10 * e[:, x] * e.norm(dim=1) ** p)
                    for x in range(3)
                ],
                dim=1,
            )
            for power in (0, 1, 3)
        )
        return Morse.atomic_energies(self, batch) + (a * torch.linalg.cross(b, c)).sum(dim=1)


class Numbered(Morse):
    """The first atom of each structure counts more."""

    def atomic_energies(self, batch):
        starts = torch.cumsum(batch.n_atoms, 0) - batch.n_atoms
        first = torch.zeros(len(batch.positions)).double().index_fill(0, starts, 0.1)
        return super().atomic_energies(batch) * (1 + first)


class Crowded(Morse):
    def atomic_energies(self, batch):
        return super().atomic_energies(batch) * (1 + 0.01 * batch.n_graphs)


class Unwrapped(Anisotropic):
    def atomic_energies(self, batch):
        crossed = self.field(batch, lambda _: batch.shifts.abs().sum(dim=1))
        return Morse.atomic_energies(self, batch) + crossed


class Liar(LeakyMorse):
    skin_safe = True


class HalfDetached(Morse):
    def atomic_energies(self, batch):
        return super().atomic_energies(batch) + 0.1 * super().atomic_energies(batch).detach()


class NeedsGradients(Morse):
    """Forgets that calculators evaluate under `torch.no_grad`."""

    def forward(self, batch, *, forces, stress=False, create_graph=False):
        if not torch.is_grad_enabled():
            raise RuntimeError("element 0 of tensors does not require grad")
        return super().forward(batch, forces=forces, stress=stress, create_graph=create_graph)


class WrongCurvature(Morse):
    """Right forces, but only a part of them can be differentiated."""

    def forward(self, batch, *, forces, stress=False, create_graph=False):
        out = super().forward(batch, forces=forces, stress=stress, create_graph=create_graph)
        if out.forces is None:
            return out
        return out._replace(forces=0.5 * out.forces + 0.5 * out.forces.detach())


@pytest.mark.parametrize(
    ("potential", "points"),
    [
        (Harmonic(), {"translation", "wrapping"}),
        (Anisotropic(), {"rotation"}),
        (Chiral(), {"reflection"}),
        (Numbered(), {"permutation"}),
        (Unwrapped(), {"wrapping"}),
        (Crowded(), {"batch equals single", "stress"}),
        (Liar(), {"skin_safe"}),
        (HalfDetached(), {"conservative", "stress"}),
        (NeedsGradients(), {"torch.no_grad"}),
        (WrongCurvature(), {"create_graph"}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_physics(potential, points):
    found, text = broken(potential)
    assert found == points
    if "torch.no_grad" in points:
        assert "raised RuntimeError: element 0 of tensors does not require grad" in text


def test_single_precision_finds_what_is_plainly_wrong():
    """In float32 the tolerances are wider, but not so wide that anything passes."""

    class Single(Morse):
        dtype = torch.float32

        def forward(self, batch, **asked):
            out = super().forward(batch, **asked)
            return out._replace(forces=None if out.forces is None else 1.2 * out.forces)

    class Turning(Anisotropic):
        dtype = torch.float32

    potential = Single().float()
    assert broken(potential)[0] >= {"conservative"}
    assert "rotation" in broken(Turning().float())[0]


def test_every_wrong_point_is_listed():
    class Poor(Liar):
        def forward(self, batch, **asked):
            out = super().forward(batch, **asked)
            batch.positions.data.mul_(1.01)
            forces = None if out.forces is None else -out.forces
            return Prediction(out.energy.float(), forces, out.stress)

    points, text = broken(Poor())
    assert points >= {"precision", "no mutation", "skin_safe", "conservative"}
    assert len(text.splitlines()) > len(points)


def test_errors_of_the_potential_are_findings():
    class Crashing(Morse):
        def forward(self, batch, **asked):
            if len(batch.positions) == 1:
                raise IndexError("no edges")
            return super().forward(batch, **asked)

    points, text = broken(Crashing())
    assert points == {"batch equals single"}
    assert "raised IndexError: no edges" in text
    lone = [Atoms("H")]
    assert broken(Crashing(), lone)[0] == {"shapes"}
