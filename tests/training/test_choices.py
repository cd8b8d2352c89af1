"""What of a network is trained, from where, and at which rate."""

import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ase_ws.errors import UserError
from ase_ws.frames.labels import frame_from_atoms
from ase_ws.potentials.mace.direct import DirectPotential
from ase_ws.testing.toys import tiny_mace
from ase_ws.training import finetune
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config
from ase_ws.training.optimizer import SCHEDULES, Rate
from ase_ws.training.parts import freeze
from ase_ws.training.settings import OptimizerConfig
from ase_ws.training.start import predicted_energies


def frames(n=6):
    out = []
    for k in range(n):
        atoms = molecule("H2O" if k % 2 else "CO2")
        atoms.rattle(0.05, seed=k)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - k, forces=0.1 * atoms.positions)
        out.append(atoms)
    return out


def tuned(tmp_path, base=None, **settings):
    lines = []
    settings.setdefault("optimizer", {"max_steps": 3})
    result = finetune(
        frames(), model=base, config=settings, out=tmp_path / "run", announce=lines.append
    )
    return result, lines


def test_frozen_weights_stay_and_are_told(tmp_path):
    base = tiny_mace((1, 6, 8))
    before = dict(base.named_parameters())
    settings = {"freeze": ["interactions.0", "products.*"]}
    result, lines = tuned(tmp_path, base, model=settings)
    moved = {
        name: not torch.equal(weight, before[name].to(weight.dtype))
        for name, weight in result.potential.named_parameters()
    }
    still = ("network.interactions.0.", "network.products.")
    assert any(moved.values())
    assert not any(change for name, change in moved.items() if name.startswith(still))
    assert any(change for name, change in moved.items() if name.startswith("network.readouts"))
    assert any("frozen: " in line for line in lines)


def test_a_pattern_for_nothing_is_an_error():
    base = tiny_mace((1, 8))
    with pytest.raises(UserError, match=r"no weight is called 'layers\.0'.*interactions"):
        freeze(base, ["layers.0"])
    with pytest.raises(UserError, match="nothing is left"):
        freeze(base, ["*"])


def test_parts_of_a_model_with_direct_forces_freeze_too():
    direct = DirectPotential(tiny_mace((1, 8)))
    assert freeze(direct, ["interactions", "readout"]) > 0
    still = [name for name, w in direct.named_parameters() if not w.requires_grad]
    assert all("interactions" in name or name.startswith("readout.") for name in still)


def test_atoms_energies_by_symbol(tmp_path):
    base = tiny_mace((1, 6, 8))
    given = {"H": -1.0, "C": -2.0, "O": -3.0}
    result, _ = tuned(tmp_path, base, data={"e0s": given})
    atoms = molecule("H2O")[:1]  # a lone oxygen
    atoms.positions[:] = 0.0
    (energy,) = predicted_energies(result.potential, [frame_from_atoms(atoms)])
    # The steps may have moved it a little.
    assert energy == pytest.approx(-3.0, abs=0.5)
    with pytest.raises(UserError, match="'Xq' is no element"):
        tuned(tmp_path / "b", base, data={"e0s": {"Xq": 1.0}})
    with pytest.raises(UserError, match="no isolated atom of C"):
        tuned(tmp_path / "c", base, data={"e0s": {"H": -1.0, "O": -3.0}})


def test_a_new_network_of_ones_choice(tmp_path):
    choice = {
        "hidden_irreps": "4x0e+4x1o",
        "r_max": 3.0,
        "interaction_first": "RealAgnosticDensity",
        "interaction": "RealAgnosticDensityResidualInteractionBlock",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "radial_MLP": [16, 16],
    }
    result, _ = tuned(tmp_path, model=choice)
    made = result.potential.architecture
    assert made.interaction_first == "RealAgnosticDensityInteractionBlock"
    assert made.distance_transform == "Agnesi" and made.pair_repulsion
    assert made.radial_MLP == (16, 16)
    with pytest.raises(UserError, match="no interaction 'Magic'"):
        tuned(tmp_path / "b", model={"interaction": "Magic"})


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    settings = OptimizerConfig(
        max_steps=20, schedule=name, warmup_steps=2, learning_rate=1e-3, plateau=100
    )
    rate = Rate(settings)
    factors = [rate.factor(step) for step in range(20)]
    stays = name in ("constant", "plateau")
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factors[-1] == 1.0 if stays else factors[-1] < 0.3
    assert SCHEDULES[name](0.0) == 1.0
    assert SCHEDULES[name](1.0) == pytest.approx(1.0 if stays else 0.01)


def test_the_rate_of_a_run_is_that_of_its_schedule(tmp_path):
    optimizer: dict = {"max_steps": 6, "valid_interval": 1, "schedule": "cosine"}
    optimizer |= {"warmup_steps": 2, "learning_rate": 1e-3}
    result, _ = tuned(tmp_path, tiny_mace((1, 6, 8)), optimizer=optimizer)
    rate = Rate(OptimizerConfig(**optimizer))
    rates = [row["learning_rate"] for row in result.history[1:]]
    assert rates == pytest.approx([1e-3 * rate.factor(step) for step in range(6)])


def test_a_run_from_before_there_were_schedules_goes_on(tmp_path):
    """Its file has the numbers that were chosen, and no schedule: there was one."""
    result, _ = tuned(
        tmp_path, tiny_mace((1, 6, 8)), optimizer={"max_steps": 3, "schedule": "cosine"}
    )
    path = result.path / "config.yaml"
    text = path.read_text()
    assert "  schedule: cosine\n" in text
    path.write_text(text.replace("  schedule: cosine\n", ""))
    assert load_config(path).optimizer.schedule == "cosine"
    again = finetune(
        frames(),
        model=tiny_mace((1, 6, 8)),
        config=load_config(path, ["optimizer.max_steps=5"]),
        out=result.path,
        resume=True,
    )
    assert again.history[-1]["step"] == 5


def test_atoms_energies_are_numbers(tmp_path):
    with pytest.raises(UserError, match="H is nan; expected an energy"):
        tuned(tmp_path, tiny_mace((1, 6, 8)), data={"e0s": {"H": float("nan")}})


def test_defaults_with_forces_and_without():
    with_forces = FinetuneConfig().resolved(has_forces=True)
    assert with_forces.optimizer.schedule == "trapezoid"
    assert (with_forces.loss.energy_weight, with_forces.optimizer.gradient_clip) == (1.0, 0.1)
    for other in ({"has_forces": False}, {"has_forces": True, "conservative": False}):
        config = FinetuneConfig().resolved(**other)
        assert config.optimizer.schedule == "cosine"
        assert (config.loss.energy_weight, config.optimizer.gradient_clip) == (100.0, 10.0)
