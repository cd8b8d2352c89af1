"""Packaged reference data and the base model; README.md says how they were made."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

#: Small model trained on GFN2-xTB energies and forces of small CHO molecules.
BASE_MODEL = _FOLDER / "base_model.safetensors"
#: Energies and forces of small CHO molecules at the GFN2-xTB level.
SMALL_CHO_GFN2 = _FOLDER / "small_cho_gfn2.xyz"
#: Methanol at a CCSD(T) focal point: energies, no forces.
METHANOL_TRAIN = _FOLDER / "methanol_ccsdt_train.xyz"
#: Methanol at the same level: held-out frames with energies and analytic forces.
METHANOL_TEST = _FOLDER / "methanol_ccsdt_test.xyz"
