"""The edges of a batch in their slots: directions, radial networks, and sums at the receiver."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.plan import Slots
from ase_ws.potentials.mace.lean.weights import Basis, Dense, Density, Radial


class Edges:
    """The edges in their slots, (n_slots, ...), and what depends on their lengths alone.

    The latter is the same for both directions of an edge: where the slots have numbers, it is
    computed for each number, (n_pairs, ...), unless a radial network looks at sender and receiver.
    """

    def __init__(
        self, length: Tensor, harmonics: Tensor, slots: Slots, elements: Tensor, basis: Basis
    ):
        self.harmonics, self.slots, self.elements, self.basis = harmonics, slots, elements, basis
        ends = slots.send, slots.receive
        if slots.first is not None:
            length = length.index_select(0, slots.first)
            ends = slots.send[slots.first], slots.receive[slots.first]
        self.length, self.ends = length, ends
        self.cutoff = _envelope(length / basis.r_max, basis.p)

    def radial(self) -> Tensor:
        """Radial functions, (n_pairs, n_basis)."""
        length, basis = self.length, self.basis
        if basis.transform is not None:
            radii = basis.radii[self.elements][:, None]
            send, receive = (radii.index_select(0, end) for end in self.ends)
            length = basis.transform(length, send, receive, basis.constants)
        out = basis.function(length, basis.weights)
        return out * self.cutoff if basis.on_radial else out

    def hidden(self, x: Tensor, radial: Radial, h: Tensor, *, on_radial: bool) -> Tensor:
        """Last hidden layer of a radial network; zero where there is no edge.

        (n_pairs, n_hidden), or (n_slots, n_hidden) where it looks at both ends.
        """
        for number, dense in enumerate(radial.layers):
            x = apply(x, dense)
            if number == 0 and radial.sides is not None:
                x = self.spread(x) + self._sides(radial, h)
            x = radial.activation(_normalised(x, dense))
        if radial.biased:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        return self.ended(x, radial, on_radial=on_radial)

    def ended(self, x: Tensor, radial: Radial, *, on_radial: bool) -> Tensor:
        """Let it end at the cutoff, where the radial functions do not see to that."""
        if on_radial and not radial.biased and radial.sides is None:
            return x
        # A network with biases is not zero where its input is.
        end = (self.length < self.basis.r_max).to(x.dtype) if on_radial else self.cutoff
        return x * (end if radial.sides is None else self.spread(end))

    def density(self, x: Tensor, density: Density, h: Tensor) -> Tensor:
        """Give α + β Σ tanh(f²) for each atom, (n_atoms, 1, 1)."""
        hidden = self.hidden(x, density.radial, h, on_radial=True)
        each = torch.tanh((hidden @ density.last) ** 2)
        each = self.ended(each, density.radial, on_radial=self.basis.on_radial)
        each = each if density.radial.sides is not None else self.spread(each)
        total = self.summed(each, lambda block: block.sum(dim=1, keepdim=True))
        return total * density.beta + density.alpha

    def spread(self, x: Tensor) -> Tensor:
        """From pairs to slots."""
        return x if self.slots.pair is None else x.index_select(0, self.slots.pair)

    def sender(self, x: Tensor) -> Tensor:
        """Rows of the senders."""
        return x.index_select(0, self.slots.send)

    def receiver(self, x: Tensor) -> Tensor:
        """Rows of the receivers."""
        return x.index_select(0, self.slots.receive)

    def summed(self, x: Tensor, over: Callable[..., Tensor], *others: Tensor) -> Tensor:
        """Apply to each block of slots, (n_atoms, width, ...), what gives a row for each atom."""
        start, out = 0, []
        for n, width in self.slots.blocks:
            stop = start + n * width
            parts = [y[start:stop].view(n, width, *y.shape[1:]) for y in (x, *others)]
            out.append(over(*parts))
            start = stop
        whole = out[0] if len(out) == 1 else torch.cat(out)
        return whole if self.slots.back is None else whole.index_select(0, self.slots.back)

    def coupled(self, coupling: Tensor, sent: Tensor) -> Tensor:
        """Sum over neighbours and components k: (n_slots, n_p, n_m, n_k), (n_p, n_slots, n_k, c).

        Returns
        -------
        Tensor, (n_p, n_atoms · n_m, c)
        """
        n_p, _, n_k, channels = sent.shape
        n_m, start, out = coupling.shape[2], 0, []
        for n, width in self.slots.blocks:
            stop = start + n * width
            left = coupling[start:stop].view(n, width, n_p, n_m, n_k).permute(2, 0, 3, 1, 4)
            left = left.reshape(n_p * n, n_m, width * n_k)
            right = sent[:, start:stop].reshape(n_p * n, width * n_k, channels)
            out.append(torch.bmm(left, right).view(n_p, n, n_m * channels))
            start = stop
        whole = out[0] if len(out) == 1 else torch.cat(out, dim=1)
        if self.slots.back is not None:
            whole = whole.index_select(1, self.slots.back)
        return whole.view(n_p, -1, channels)

    def _sides(self, radial: Radial, h: Tensor) -> Tensor:
        sides = radial.sides
        assert sides is not None
        if sides.by_element:
            send, receive = sides.sender[self.elements], sides.receiver[self.elements]
        else:
            send, receive = h[0] @ sides.sender, h[0] @ sides.receiver
        return self.sender(send) + self.receiver(receive)


def apply(x: Tensor, dense: Dense) -> Tensor:
    """Apply a layer without its norm and activation."""
    x = x @ dense.weight
    return x if dense.bias is None else x + dense.bias


def _normalised(x: Tensor, dense: Dense) -> Tensor:
    if dense.norm is None:
        return x
    return torch.nn.functional.layer_norm(x, x.shape[-1:], *dense.norm)


def harmonics(u: Tensor, maps: list[Tensor]) -> Tensor:
    """Spherical harmonics of directions, (n, (l + 1)²): each degree from the one before."""
    out = [maps[0].expand(len(u), 1)]
    for degree, onwards in enumerate(maps[1:], 1):
        products = u if degree == 1 else (out[-1][:, :, None] * u[:, None, :]).flatten(1)
        out.append(products @ onwards)
    return torch.cat(out, dim=1)


def _envelope(x: Tensor, p: int) -> Tensor:
    """Upstream's polynomial cutoff of x = r/r_max: 1 at 0, 0 from 1 on."""
    a, b, c = (p + 1.0) * (p + 2.0) / 2.0, p * (p + 2.0), p * (p + 1.0) / 2
    return (1.0 - x**p * (a - x * (b - c * x))) * (x < 1)


def bessel(x: Tensor, weights: Tensor) -> Tensor:
    """Bessel functions, the prefactor first among the weights."""
    return weights[0] * torch.sin(weights[1:] * x) / x


def gaussian(x: Tensor, weights: Tensor) -> Tensor:
    """Gaussians, the factor of the exponent first among the weights."""
    return torch.exp(weights[0] * (x - weights[1:]) ** 2)


def agnesi(x: Tensor, sender: Tensor, receiver: Tensor, constants: Tensor) -> Tensor:
    """Transform lengths as in Witt et al., J. Chem. Phys. 159, 164101 (2023); constants a, q, p."""
    a, q, p = constants
    scaled = x / (0.5 * (sender + receiver))
    return 1.0 / (1.0 + a * scaled**q / (1.0 + scaled ** (q - p)))


def soft(x: Tensor, sender: Tensor, receiver: Tensor, constants: Tensor) -> Tensor:
    """Transform lengths: 3/4 of the radii sum far within it, the length itself far beyond."""
    radii = sender + receiver
    low, high = 0.75 * radii, 4.0 / 3.0 * radii
    steepness = constants[0] / (high - low)
    part = 0.5 * (1.0 + torch.tanh(steepness * (x - 0.5 * (low + high))))
    return low + (x - low) * part
