"""Every architecture that upstream's classes make, built by them with random weights."""

from typing import Any

import numpy as np
import torch

ELEMENTS = [1, 6, 8]
INTERACTIONS = {
    name: f"RealAgnostic{name}InteractionBlock"
    for name in ("Residual", "", "Density", "DensityResidual", "AttResidual", "ResidualNonLinear")
}
GATES = {"tanh": torch.tanh, "silu": torch.nn.functional.silu, "abs": torch.abs, "None": None}
NON_LINEAR = INTERACTIONS["ResidualNonLinear"]
BOTH_PARITIES = "4x0e+4x0o+4x1o+4x1e"

# --- what there is ---------------------------------------------------------------------------


def _pairs():
    """Give each interaction in the first layer with each in the others."""
    return {
        f"{first or 'plain'}, {other or 'plain'}": {
            "first": INTERACTIONS[first],
            "other": INTERACTIONS[other],
        }
        for first in INTERACTIONS
        for other in INTERACTIONS
    }


def _radial(functions):
    return {
        f"{functions}, {transform}, cutoff on {'functions' if on_functions else 'weights'}": {
            "radial_type": functions,
            "distance_transform": transform,
            "apply_cutoff": on_functions,
        }
        for transform in ("Soft", "Agnesi", "None")
        for on_functions in (False, True)
    }


def _edges(*irreps):
    return {
        f"edges {edges}{', first too' if first else ''}": {
            "edge_irreps": edges,
            "use_edge_irreps_first": first,
        }
        for edges in irreps
        for first in (False, True)
    }


def _layers(number):
    return {
        f"{number} layers, {'last readout' if last else 'all readouts'}, "
        f"{'whole' if whole else 'scalar'} last layer": {
            "num_interactions": number,
            "use_last_readout_only": last,
            "keep_last_layer_irreps": whole,
        }
        for last in (False, True)
        for whole in (False, True)
    }


#: Rows of the table: what it is, and the networks that show it, by name, as options of
#: `build_upstream`. The first of a row is compared in every run of the tests.
TABLE: dict[str, dict[str, dict[str, Any]]] = {
    "interactions `RealAgnostic…` plain, `Residual`, `Density`, `DensityResidual`, `AttResidual`, "
    "`ResidualNonLinear`: each in the first layer with each in the others": _pairs(),
    "Bessel functions of the distance or of its transform `Agnesi` or `Soft`; the cutoff on them "
    "or on the weights of messages": _radial("bessel"),
    "Gaussian functions, likewise": _radial("gaussian"),
    "Chebyshev functions (of `Agnesi`) ¹": {
        name: options for name, options in _radial("chebyshev").items() if "Agnesi" in name
    },
    "short-range repulsion (ZBL, `pair_repulsion`)": {
        "ZBL, density and Agnesi": {
            "first": INTERACTIONS["Density"],
            "other": INTERACTIONS["DensityResidual"],
            "distance_transform": "Agnesi",
            "pair_repulsion": True,
        },
        "ZBL": {"pair_repulsion": True},
    },
    "plain `MACE`, without scale and shift": {
        "plain MACE and ZBL": {"plain": True, "pair_repulsion": True},
        "plain MACE": {"plain": True},
    },
    "all couplings (`use_reduced_cg=False`)": {
        "all couplings, correlation 3": {"use_reduced_cg": False, "correlation": 3},
        "all couplings": {"use_reduced_cg": False},
    },
    "one product for all elements (`use_agnostic_product`)": {
        "one product for all": {"use_agnostic_product": True}
    },
    "readout `NonLinear` or `NonLinearBias`; gate `silu`, `tanh`, `abs` or none": {
        f"readout {kind}, {gate}": {"readout_cls": f"{kind}ReadoutBlock", "gate": function}
        for kind in ("NonLinearBias", "NonLinear")
        for gate, function in GATES.items()
    },
    "one layer": {"one layer": {"num_interactions": 1}},
    "two layers or three; a readout in each or in the last (`use_last_readout_only`); scalars or "
    "all in the last (`keep_last_layer_irreps`)": {
        **dict(reversed(_layers(3).items())),
        **_layers(2),
    },
    "`max_ell` 1 to 4": {f"max_ell {number}": {"max_ell": number} for number in (4, 3, 2, 1)},
    "`correlation` 1 to 4, or one for each layer": {
        "correlation by layer": {"correlation": [3, 2]},
        **{f"correlation {number}": {"correlation": number} for number in (1, 2, 3)},
        "correlation 4": {"correlation": 4, "max_ell": 1},
    },
    "features to degree 0, 1, 2 or 3": {
        f"features {irreps}": {"hidden_irreps": irreps}
        for irreps in ("4x0e+4x1o+4x2e+4x3o", "4x0e", "4x0e+4x1o", "4x0e+4x1o+4x2e")
    },
    "features of both parities": {
        "both parities": {"hidden_irreps": BOTH_PARITIES},
        "both parities, whole last layer": {
            "hidden_irreps": BOTH_PARITIES,
            "keep_last_layer_irreps": True,
        },
        "both parities, non-linear first": {"hidden_irreps": BOTH_PARITIES, "first": NON_LINEAR},
        "odd scalars": {"hidden_irreps": "4x0e+4x0o"},
    },
    "features in another order, or with a degree left out": {
        "no vectors": {"hidden_irreps": "4x0e+4x2e"},
        "vectors first": {"hidden_irreps": "4x1o+4x0e"},
    },
    "no parity (`use_so3`)": {
        f"no parity, {irreps}": {"use_so3": True, "hidden_irreps": irreps}
        for irreps in ("4x0e+4x1e", "4x0e", "4x0e+4x1e+4x2e")
    },
    "edges of as many channels in each degree (`edge_irreps`), from the first layer on "
    "(`use_edge_irreps_first`) or later": _edges("6x0e+6x1o", "2x0e+2x1o", "4x0e+4x1o+4x2e"),
    "edges of other numbers of channels, fewer degrees or another order": _edges(
        "6x0e+4x1o", "4x0e", "4x1o+4x0e", "4x0e+4x1e"
    ),
    "radial network of no, one or three hidden layers (`radial_MLP`)": {
        "radial network, one layer": {"radial_MLP": [7]},
        "radial network, none": {"radial_MLP": []},
        "radial network, three": {"radial_MLP": None},
    },
    "the newest of upstream's: non-linear, with narrow edges, one product, the last readout with "
    "biases, `Agnesi`": {
        "newest": {
            "first": NON_LINEAR,
            "other": NON_LINEAR,
            "edge_irreps": "2x0e+2x1o",
            "use_edge_irreps_first": True,
            "use_agnostic_product": True,
            "use_last_readout_only": True,
            "apply_cutoff": False,
            "distance_transform": "Agnesi",
            "readout_cls": "NonLinearBiasReadoutBlock",
        },
    },
    "non-linear, and a radial network of no hidden layers": {
        "non-linear, radial network of none": {
            "first": NON_LINEAR,
            "other": NON_LINEAR,
            "radial_MLP": [],
        }
    },
    "other readouts of upstream's; `max_ell` 0; features without `0e`; non-linear in later layers "
    "and both parities": {
        **{
            f"readout {kind}": {"readout_cls": f"{kind}ReadoutBlock"}
            for kind in ("Linear", "GeneralNonLinearBias", "LinearDipole", "NonLinearDipole")
        },
        "max_ell 0": {"max_ell": 0, "hidden_irreps": "4x0e"},
        "no even scalars": {"hidden_irreps": "4x0o+4x1o"},
        "non-linear, both parities": {"other": NON_LINEAR, "hidden_irreps": BOTH_PARITIES},
    },
    "degrees of different numbers of channels; one layer without its readout "
    "(`use_last_readout_only`)": {
        "fewer vectors": {"hidden_irreps": "4x0e+2x1o"},
        "scalars twice": {"hidden_irreps": "2x0e+2x0e+4x1o"},
        "no readout": {"num_interactions": 1, "use_last_readout_only": True},
    },
}

#: Those of which every head is compared in every file in every run of the tests.
EVERY_HEAD = (
    "plain, Residual",
    "AttResidual, Residual",
    "gaussian, Soft, cutoff on weights",
    "ZBL, density and Agnesi",
    "plain MACE and ZBL",
    "all couplings, correlation 3",
    "readout NonLinearBias, tanh",
    "one layer",
    "3 layers, last readout, whole last layer",
    "correlation 4",
    "both parities",
    "edges 6x0e+4x1o",
    "newest",
)

#: All networks by name.
UPSTREAM = {name: options for members in TABLE.values() for name, options in members.items()}

# --- built by upstream's classes -------------------------------------------------------------

HEADS = ["pbe", "Default", "cc"]


def three_heads(plain=False):
    """Options of three heads that nothing but their numbers tells apart."""
    rng = np.random.default_rng(5)
    e0 = {"heads": HEADS, "atomic_energies": rng.normal(-500, 300, (3, len(ELEMENTS)))}
    scale, shift = rng.uniform(0.5, 2.0, 3), rng.normal(0, 1, 3)
    affine = {"atomic_inter_scale": list(scale), "atomic_inter_shift": list(shift)}
    return e0 if plain else {**e0, **affine}


def upstream_model(mace_package, name):
    """Give the network of this name, with three heads."""
    options = UPSTREAM[name]
    heads = three_heads(plain=options.get("plain", False))
    return build_upstream(mace_package, **{**heads, **options})


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

    blocks = mace_package.modules.blocks
    dtype, plain = options.pop("dtype", torch.float64), options.pop("plain", False)
    first = options.pop("first", INTERACTIONS[""])
    other = options.pop("other", INTERACTIONS["Residual"])
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
        "num_elements": len(ELEMENTS),
        "hidden_irreps": o3.Irreps(options.pop("hidden_irreps", "4x0e+4x1o")),
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
