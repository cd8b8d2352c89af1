"""What this package builds on in mace-torch, piece by piece: names what breaks when upstream moves.

It holds for whatever is installed. A weekly job runs it on upstream's development branch
(`.github/workflows/upstream.yml`); by hand: `PYTHONPATH=MACE_CHECKOUT pytest THIS_FILE`.

MACE announced a version 1 that will not read today's checkpoints. Files are read here without
upstream's classes (`potentials/mace/inert.py`), and built from their architecture and weights: as
long as what stands below is there, or an older mace-torch is installed, old files stay alive.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest
import torch
from mace import modules
from mace.calculators import MACECalculator

from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.model import _upstream_arguments, build_mace

#: Name and shape of every weight of small networks, by the interaction of their second layer, as
#: mace-torch 0.3.16 names them: what checkpoints hold.
NAMES = Path(__file__).parent / "upstream_names.txt"
#: What upstream has and a network of energies is never given.
REFUSED = {
    "interaction": set[str](),
    "readout": {
        "LinearReadoutBlock",  # of all layers but the last, whatever is chosen
        "LinearDipoleReadoutBlock",
        "NonLinearDipoleReadoutBlock",
        "GeneralNonLinearBiasReadoutBlock",  # of its networks in electric fields
    },
}


def choices(field: str) -> set[str]:
    """Names that a field of the architecture takes."""
    return set(get_args(MACEArchitecture.model_fields[field].annotation))


def architecture(interaction: str) -> MACEArchitecture:
    """Give a small network with that interaction."""
    return MACEArchitecture(
        atomic_numbers=(1, 8),
        r_max=4.0,
        avg_num_neighbors=4.0,
        hidden_irreps="4x0e+4x1o",
        edge_irreps="4x0e+4x1o" if "NonLinear" in interaction else None,
        interaction=interaction,  # pyright: ignore[reportArgumentType]
    )


def listing(interaction: str) -> list[str]:
    """Name and shape of every weight, a line each."""
    weights = build_mace(architecture(interaction), [0.0, 0.0]).network.named_parameters()
    return [f"{interaction} {name} {tuple(weight.shape)}" for name, weight in weights]


def test_every_argument_of_a_network_is_there() -> None:
    taken: set[str] = set()
    for kind in modules.ScaleShiftMACE.__mro__[:-1]:
        taken |= set(inspect.signature(kind.__init__).parameters)
    given = set(_upstream_arguments(architecture("RealAgnosticResidualInteractionBlock")))
    assert given <= taken, f"upstream's ScaleShiftMACE no longer takes {sorted(given - taken)}"


@pytest.mark.parametrize("field", ["interaction", "readout"])
def test_every_block_is_there(field: str) -> None:
    gone = {name for name in choices(field) if not hasattr(modules.blocks, name)}
    assert not gone, f"upstream no longer has {sorted(gone)}"


@pytest.mark.parametrize(
    ("field", "name"),
    [("interaction", "interaction_classes"), ("readout", "readout_classes")],
)
def test_every_block_of_upstream_is_known(field: str, name: str) -> None:
    """A new block is a new kind of file that users will bring."""
    theirs = {kind.__name__ for kind in getattr(modules, name).values()}
    new = theirs - choices(field) - REFUSED[field]
    assert not new, f"upstream has {sorted(new)}, which the architecture does not know"


@pytest.mark.parametrize("interaction", sorted(choices("interaction")))
def test_checkpoints_name_their_weights_as_before(interaction: str) -> None:
    before = [line for line in NAMES.read_text().splitlines() if line.split()[0] == interaction]
    now = listing(interaction)
    assert before, "no such interaction in the listing"
    assert set(now) == set(before), (
        f"upstream's networks hold other weights: gone {sorted(set(before) - set(now))}, "
        f"new {sorted(set(now) - set(before))}"
    )


def test_its_calculator_takes_what_exports_are_shown_with() -> None:
    taken = set(inspect.signature(MACECalculator.__init__).parameters)
    assert {"model_paths", "models", "device", "default_dtype"} <= taken


def test_a_batch_is_read_by_the_names_that_it_is_given() -> None:
    """Energies come under the names, and from the keys, that `MACEPotential` uses."""
    potential = build_mace(architecture("RealAgnosticResidualInteractionBlock"), [-1.0, -2.0])
    from ase.build import molecule

    from ase_ws.frames.labels import frame_from_atoms

    batch = frame_from_atoms(molecule("H2O")).graph(potential.r_max)
    prediction = potential(batch, forces=True)
    assert torch.isfinite(prediction.energy).all() and prediction.forces is not None


if __name__ == "__main__":
    # Makes the listing anew, from the version that is installed.
    lines = [line for name in sorted(choices("interaction")) for line in listing(name)]
    NAMES.write_text("\n".join(lines) + "\n")
