"""Forces and stress of any energy by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ase_ws.graphs import sum_by_graph
from ase_ws.typing import GraphBatch, Potential, Prediction


class ConservativeModule(torch.nn.Module):
    """A `Potential` that is an energy: a subclass gives `atomic_energies`, the rest follows."""

    r_max: float
    atomic_numbers: tuple[int, ...]
    conservative: bool = True
    skin_safe: bool = True

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies per atom, (n_atoms,), eV, float64, differentiable in positions and cell."""
        raise NotImplementedError

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Evaluate (see `ase_ws.typing.Potential`)."""
        return predict_conservative(
            self.atomic_energies, batch, forces=forces, stress=stress, create_graph=create_graph
        )


def predict_conservative(
    atomic_energies: Callable[[GraphBatch], Tensor],
    batch: GraphBatch,
    *,
    forces: bool,
    stress: bool = False,
    create_graph: bool = False,
) -> Prediction:
    """Energy and its derivatives: F = -dE/dr and σ = (1/V) dE/dε.

    Parameters
    ----------
    atomic_energies : callable
        Maps a batch to energies per atom, (n_atoms,), eV, differentiable in `positions` and `cell`.
    batch : GraphBatch
        Never changed: derivatives are taken with respect to fresh tensors.
    forces, stress : bool
        What to compute besides the energy. Nothing else is computed.
    create_graph : bool
        Keep the derivatives differentiable (training on forces, weak losses).

    Returns
    -------
    Prediction
        Energy (n_graphs,) eV; forces (n_atoms, 3) eV/Å; stress (n_graphs, 3, 3) eV/Å³, symmetric,
        zero for structures without periodicity.
    """
    if not (forces or stress):
        energies = atomic_energies(batch)
        return Prediction(energy=sum_by_graph(energies, batch), energies=energies)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        positions = batch.positions
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_()
        strained = replace(batch, positions=positions)
        wanted = [positions]
        if stress:
            strain = torch.zeros_like(batch.cell, requires_grad=True)
            strained = _strain(strained, strain)
            wanted.append(strain)
        energies = atomic_energies(strained)
        energy = sum_by_graph(energies, batch)
        # A structure without edges has an energy that depends on nothing: allow_unused.
        gradients = torch.autograd.grad(
            energy.sum(),
            wanted,
            create_graph=create_graph,
            retain_graph=create_graph or differentiable,
            allow_unused=True,
        )
    gradients = [
        torch.zeros_like(x) if g is None else g for x, g in zip(wanted, gradients, strict=True)
    ]
    if not differentiable:
        energy, energies = energy.detach(), energies.detach()
    return Prediction(
        energy=energy,
        forces=-gradients[0] if forces else None,
        stress=_stress(gradients[1], batch) if stress else None,
        energies=energies,
    )


def energy_forces(potential: Potential, batch: GraphBatch) -> Tensor:
    """−dE/dr of any potential's energy, (n_atoms, 3), eV/Å: what its forces should be.

    For a conservative potential these are its forces; for a direct one the difference to them is
    the error of consistency.
    """
    with torch.enable_grad():
        positions = batch.positions.detach().requires_grad_()
        energy = potential(replace(batch, positions=positions), forces=False).energy
        (gradient,) = torch.autograd.grad(energy.sum(), positions, allow_unused=True)
    return torch.zeros_like(positions) if gradient is None else -gradient


def _strain(batch: GraphBatch, strain: Tensor) -> GraphBatch:
    """Apply a symmetric strain to positions and cells (rows are vectors, so r -> r + r ε)."""
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    moved = torch.einsum("ai,aij->aj", batch.positions, symmetric[batch.batch])
    return replace(
        batch, positions=batch.positions + moved, cell=batch.cell + batch.cell @ symmetric
    )


def _stress(strain_gradient: Tensor, batch: GraphBatch) -> Tensor:
    volume = torch.linalg.det(batch.cell).abs()
    periodic = (batch.pbc.any(dim=1) & (volume > 0))[:, None, None]
    safe = torch.where(volume > 0, volume, torch.ones_like(volume))[:, None, None]
    return torch.where(periodic, strain_gradient / safe, torch.zeros_like(strain_gradient))
