"""Whether edges beyond the cutoff add exactly nothing, so that a list may have a skin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ase_ws.graphs import edge_vectors, graph
from ase_ws.potentials.base import PotentialModule


def leak_beyond_cutoff(potential: PotentialModule, skin: float = 1.0) -> float:
    """Largest change of an atomic energy (eV) when edges beyond `r_max` are added.

    Zero for networks that multiply every message by a cutoff that ends at `r_max`; anything above
    rounding is reported as it is. Evaluated on a fixed cluster of known elements in the network's
    own precision.
    """
    rng = np.random.default_rng(0)
    n = 8
    numbers = np.resize(potential.atomic_numbers, n)
    positions = rng.uniform(0, potential.r_max * 1.1, (n, 3))
    wide = graph(
        numbers, positions, np.zeros((3, 3)), np.zeros(3, bool), cutoff=potential.r_max + skin
    ).to(potential.device, potential.dtype)
    inside = edge_vectors(wide).norm(dim=1) < potential.r_max
    tight = replace(wide, edge_index=wide.edge_index[:, inside], shifts=wide.shifts[inside])
    with torch.no_grad():
        a, b = (potential.atomic_energies(g) for g in (wide, tight))
    leak = float((a - b).abs().max())
    # Adding zeros can change the order of a sum, hence its rounding.
    scale = float((a - potential.e0[potential.element_indices(wide)]).abs().max())
    rounding = 100 * torch.finfo(potential.dtype).eps * max(scale, 1e-3)
    # NaN counts as a leak: nothing can be said of it.
    return 0.0 if leak <= rounding else leak
