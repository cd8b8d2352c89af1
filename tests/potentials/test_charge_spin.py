"""Models that take the total charge and the spin multiplicity, as upstream reads them."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from upstream_models import build_upstream

from ase_ws import CommitteeCalculator, PotentialCalculator, finetune
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.frames.frame import content_hash
from ase_ws.md import run_replicas
from ase_ws.potentials.files import load_potential, read_header, save_potential
from ase_ws.potentials.mace.lean.model import LeanMACE
from ase_ws.potentials.mace.upstream import export_upstream

SPECS = {
    "total_charge": {
        "type": "categorical", "per": "graph", "emb_dim": 4, "num_classes": 21, "offset": 10,
    },
    "total_spin": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 5},
}  # fmt: skip
NON_LINEAR = {
    "first": "RealAgnosticResidualNonLinearInteractionBlock",
    "other": "RealAgnosticResidualNonLinearInteractionBlock",
    "use_agnostic_product": True,
    "apply_cutoff": False,
}
KINDS = {
    "both, with an energy of their own": {"use_embedding_readout": True},
    "no energy of their own": {},
    "non-linear": {"use_embedding_readout": True, **NON_LINEAR},
    "charge alone, two heads": {
        "embedding_specs": {"total_charge": SPECS["total_charge"]},
        "use_embedding_readout": True,
        "heads": ["a", "b"],
        "atomic_energies": np.array([[-1.0, -2.0, -3.0], [-13.6, -1030.0, -2040.0]]),
        "atomic_inter_scale": [1.3, 0.7],
        "atomic_inter_shift": [0.1, -0.2],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("charged")


@pytest.fixture
def files(upstream, folder):
    """One file of each kind, made by upstream's own classes."""
    made = {name: folder / f"{number}.model" for number, name in enumerate(KINDS)}
    for name, path in made.items():
        if not path.exists():
            options = {"embedding_specs": SPECS, "hidden_irreps": "8x0e+8x1o", **KINDS[name]}
            torch.save(build_upstream(upstream, **options), path)
    return made


def states():
    out = []
    for charge, spin in ((None, None), (1, 2), (-2, 3)):
        for atoms in (molecule("CH3OH"), bulk("C", cubic=True)):
            atoms.rattle(0.05, seed=1)
            if charge is not None:
                atoms.info.update(charge=charge, spin=spin)
            out.append(atoms)
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_upstreams_numbers_through_every_file(upstream, files, tmp_path, name):
    path = files[name]
    head = {"head": "b"} if "heads" in KINDS[name] else {}
    own = save_potential(load_potential(path, **head), tmp_path / "own.safetensors")
    again = export_upstream(load_potential(own), tmp_path / "again.model")
    theirs = upstream.calculators.MACECalculator(
        model_paths=str(path), device="cpu", default_dtype="float64", **head
    )
    energies = []
    for source in (path, own, again):
        ours = PotentialCalculator(source, **head)
        assert isinstance(ours.evaluator, LeanMACE)
        many = ours.calculate_many(states())
        for atoms, together in zip(states(), many, strict=True):
            expected, found = atoms.copy(), atoms.copy()
            expected.calc, found.calc = theirs, ours
            energies.append(expected.get_potential_energy())
            assert found.get_potential_energy() == pytest.approx(energies[-1], abs=1e-10)
            assert together["energy"] == pytest.approx(energies[-1], abs=1e-10)
            np.testing.assert_allclose(found.get_forces(), expected.get_forces(), atol=1e-10)
            np.testing.assert_allclose(together["forces"], expected.get_forces(), atol=1e-10)
            if atoms.pbc.all():
                np.testing.assert_allclose(found.get_stress(), expected.get_stress(), atol=1e-10)
    # The state is felt.
    assert abs(energies[0] - energies[2]) > 1e-4
    assert abs(energies[2] - energies[4]) > 1e-4


@pytest.fixture
def calculator(files):
    return PotentialCalculator(files["both, with an energy of their own"])


def test_another_charge_is_another_calculation(calculator, files):
    several = CommitteeCalculator([calculator.potential, calculator.potential])
    for calc in (calculator, several):
        atoms = molecule("H2O")
        atoms.calc = calc
        neutral = atoms.get_potential_energy()
        atoms.info["charge"] = 1
        charged = atoms.get_potential_energy()
        assert abs(charged - neutral) > 1e-4
        atoms.info["charge"] = 0
        assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-12)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"charge": "plus one"}, r"info\['charge'\] is nan or no number: .* from -10 to 10"),
        ({"charge": 0.5}, "is 0.5 or no number: this model takes a whole number"),
        ({"charge": 11}, "is 11 or no number"),
        ({"spin": float("nan")}, r"info\['spin'\] is nan or no number: this model takes a number"),
    ],
)
def test_states_that_the_model_does_not_know_are_refused(calculator, info, message):
    atoms = molecule("H2O")
    atoms.info.update(info)
    atoms.calc = calculator
    with pytest.raises(UserError, match=message):
        atoms.get_potential_energy()


def test_models_that_take_no_state_do_not_care(small_mace):
    atoms = molecule("H2O")
    atoms.calc = PotentialCalculator(small_mace)
    expected = atoms.get_potential_energy()
    atoms.info.update(charge="plus one", spin=[1, 2])
    assert atoms.get_potential_energy() == expected
    assert small_mace.takes == ()
    assert "embedding_specs" not in small_mace.description()["architecture"]


def test_replicas_have_their_charge(calculator):
    atoms = molecule("H2O")
    atoms.info.update(charge=1, spin=2)
    (result,) = run_replicas(atoms, calculator, temperature=300, steps=2, seeds=[1])
    alone = result.atoms.copy()
    alone.info.update(charge=1, spin=2)
    alone.calc = calculator
    expected = alone.get_potential_energy() / len(alone)
    assert result.traces["potential_ev_per_atom"][-1] == pytest.approx(expected, abs=1e-8)


def test_fine_tuning_sees_the_charge(files, quick, tmp_path):
    frames = []
    for k in range(8):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=k)
        atoms.info.update(charge=k % 2, spin=1 + k % 2, energy=-1000.0 - 5.0 * (k % 2))
        frames.append(atoms)
    read = read_frames(frames)
    assert [frame.state for frame in read[:2]] == [(0.0, 1.0), (1.0, 2.0)]
    assert content_hash(read[:1]) != content_hash(read[1:2])
    said = []
    result = finetune(
        frames, frames, model=files["both, with an energy of their own"],
        config=quick(optimizer={"max_steps": 60, "valid_interval": 30, "learning_rate": 0.01}),
        out=tmp_path / "run", announce=said.append,
    )  # fmt: skip
    assert not any("charge" in line for line in said)
    first, last = result.history[0], result.history[-1]
    assert last["energy_rmse_mev_per_atom"] < 0.5 * first["energy_rmse_mev_per_atom"]
    assert "embedding_specs" in read_header(tmp_path / "run" / "model.safetensors")["architecture"]


def test_embeddings_larger_than_the_weights_are_not_built(files, tmp_path):
    """A description may claim gigabytes."""
    from test_potentials import rewrite

    own = save_potential(
        load_potential(files["no energy of their own"]), tmp_path / "own.safetensors"
    )

    def claim(header):
        header["architecture"]["embedding_specs"]["total_charge"]["num_classes"] = 100_000
        header["architecture"]["embedding_specs"]["total_charge"]["emb_dim"] = 10_000
        return header

    with pytest.raises(UserError, match="embedding_specs"):
        load_potential(rewrite(own, tmp_path / "big.safetensors", claim))
