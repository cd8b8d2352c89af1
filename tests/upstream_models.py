"""Networks as upstream's own classes make them, for tests that read, evaluate and export them."""

import numpy as np
import torch

ELEMENTS = [1, 6, 8]
UPSTREAM = {
    "default": {},
    "float32": {"dtype": torch.float32},
    "scalar features": {"hidden_irreps": "8x0e"},
    "density": {
        "first": "RealAgnosticDensityInteractionBlock",
        "other": "RealAgnosticDensityResidualInteractionBlock",
    },
    "Agnesi and ZBL": {"distance_transform": "Agnesi", "pair_repulsion": True},
    "correlation 3": {"correlation": 3, "num_interactions": 2},
    "one layer": {"num_interactions": 1},
    "gaussian": {"radial_type": "gaussian"},
    "two heads": {
        "heads": ["pt_head", "cc"],
        "atomic_energies": np.array([[-1.0, -2.0, -3.0], [-13.6, -1030.0, -2040.0]]),
        "atomic_inter_scale": [1.3, 0.7],
        "atomic_inter_shift": [0.1, -0.2],
    },
    "plain MACE": {"plain": True},
    "tanh": {"gate": torch.tanh},
    "attention": {"other": "RealAgnosticAttResidualInteractionBlock"},
    "no gate": {"gate": None},
    "readout with biases": {"readout_cls": "NonLinearBiasReadoutBlock"},
    "one product for all": {"use_agnostic_product": True},
    "last readout only": {"use_last_readout_only": True, "num_interactions": 3},
    "whole last layer": {"keep_last_layer_irreps": True},
    "no parity": {"use_so3": True, "hidden_irreps": "8x0e+8x1e"},
    "both parities": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e"},
    "Soft": {"distance_transform": "Soft"},
    "cutoff on weights": {"apply_cutoff": False},
    "non-linear": {
        "first": "RealAgnosticResidualNonLinearInteractionBlock",
        "other": "RealAgnosticResidualNonLinearInteractionBlock",
        "edge_irreps": "8x0e+8x1o",
        "use_edge_irreps_first": True,
        "use_agnostic_product": True,
        "use_last_readout_only": True,
        "apply_cutoff": False,
        "distance_transform": "Agnesi",
        "readout_cls": "NonLinearBiasReadoutBlock",
    },
}


def upstream_model(mace_package, name):
    """Give the network of this name, with random weights."""
    return build_upstream(mace_package, **UPSTREAM[name])


def build_upstream(mace_package, **options):
    """Give a network with random weights.

    Parameters
    ----------
    mace_package : module
        Upstream's, as the fixture `upstream` gives it.
    **options
        What differs from the defaults here, by the names of upstream's constructors; blocks and
        irreps as text. And "first" and "other", the interactions; "plain", a MACE without scale
        and shift; "dtype".
    """
    from e3nn import o3

    dtype = options.pop("dtype", torch.float64)
    blocks = mace_package.modules.blocks
    first = options.pop("first", "RealAgnosticInteractionBlock")
    other = options.pop("other", "RealAgnosticResidualInteractionBlock")
    plain = options.pop("plain", False)
    if "readout_cls" in options:
        options["readout_cls"] = getattr(blocks, options["readout_cls"])
    if "edge_irreps" in options:
        options["edge_irreps"] = o3.Irreps(options["edge_irreps"])
    settings_ = {
        "r_max": 4.0,
        "num_bessel": 5,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": getattr(blocks, other),
        "interaction_cls_first": getattr(blocks, first),
        "num_interactions": 2,
        "num_elements": 3,
        "hidden_irreps": o3.Irreps(options.pop("hidden_irreps", "8x0e+8x1o")),
        "MLP_irreps": o3.Irreps("6x0e"),
        "atomic_energies": np.array([-13.6, -1030.0, -2040.0]),
        "avg_num_neighbors": 5.5,
        "atomic_numbers": ELEMENTS,
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [12, 12],
        **({} if plain else {"atomic_inter_scale": 0.8, "atomic_inter_shift": 0.15}),
        **options,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            cls = mace_package.modules.MACE if plain else mace_package.modules.ScaleShiftMACE
            return cls(**settings_)
    finally:
        torch.set_default_dtype(before)
