"""Files `stability.json` of schema version 2 that look like real ones, made in no time."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import chi2

# A methanol that loses H5: positions and radii in Å.
SYMBOLS = ["C", "O", "H", "H", "H", "H"]
POSITIONS = [
    [-0.05, 0.66, 0.0],
    [-0.05, -0.76, 0.02],
    [-1.09, 0.98, 0.03],
    [0.88, -1.07, 0.0],
    [0.44, 1.07, 0.89],
    [0.93, 1.71, -1.62],
]
RADII = [0.76, 0.66, 0.31, 0.31, 0.31, 0.31]
BONDS = [[0, 1], [0, 2], [0, 4], [1, 3]]


def finding(check="bond", severity="fail", time_fs=412.5, **more):
    return {
        "check": check,
        "severity": severity,
        "message": "bond C0-H5 is 2.21 Å long, 1.10 Å at the start",
        "value": 1.11,
        "threshold": 0.5,
        "atoms": [0, 5],
        "step": round(time_fs / 0.5),
        "time_fs": time_fs,
        "temperature": 500.0,
        "replica": 2,
        **more,
    }


def check(name, definition, unit="", status="passed", worst=None, **more):
    record = {"name": name, "definition": definition, "unit": unit, "warn_at": None}
    record |= {"fail_at": None, "worst": worst, "worst_time_fs": 120.0, "status": status}
    return {**record, "note": "", **more}


def interval(failed, total):
    """Give the exact two-sided 95 % interval of a Poisson rate (Garwood 1936)."""
    low = chi2.ppf(0.025, 2 * failed) / 2 if failed else 0.0
    return [float(low) / total, float(chi2.ppf(0.975, 2 * failed + 2)) / 2 / total]


def upper(failed, total):
    return float(chi2.ppf(0.95, 2 * failed + 2)) / 2 / total


def survival(times, planned):
    """Give a survival curve of runs that failed at `times` (None: they did not)."""
    failed = sorted(time for time in times if time is not None)
    steps = [0.0, *failed, planned]
    fraction = [1 - min(i, len(failed)) / len(times) for i in range(len(steps))]
    width = [0.9 * math.sqrt(max(f * (1 - f), 0.02) / len(times)) for f in fraction]
    return {
        "time_ps": steps,
        "fraction": fraction,
        "low": [max(0.0, f - 2 * w) for f, w in zip(fraction, width, strict=True)],
        "high": [min(1.0, f + w) for f, w in zip(fraction, width, strict=True)],
    }


def traces(rng, temperature, end_ps, fails, points):
    time = np.linspace(0, end_ps, points)
    heat = temperature * (1 + 0.3 * np.sin(60 * time) + rng.normal(0, 0.12, points))
    blown = np.exp(np.minimum(0.0, (time - end_ps) / 0.01)) if fails else np.zeros(points)
    heat = np.abs(heat) * (1 + 6 * blown)
    potential = -3.9 + 0.013 * (heat / temperature - 1) + 0.4 * blown
    kinetic = 8.6e-5 * heat
    conserved = -3.86 + 2e-5 * np.cumsum(rng.normal(0, 1, points)) + 0.3 * blown
    return {
        "step": (time * 2000).round().tolist(),
        "time_fs": (1000 * time).tolist(),
        "potential_ev_per_atom": potential.tolist(),
        "kinetic_ev_per_atom": kinetic.tolist(),
        "conserved_ev_per_atom": conserved.tolist(),
        "temperature_k": heat.tolist(),
        "volume_a3": [None] * points,
    }


def replica(rng, temperature, number, fails_at, planned, points):
    failure = None
    if fails_at is not None:
        failure = finding(time_fs=1000 * fails_at, temperature=temperature, replica=number)
    return {
        "temperature": temperature,
        "replica": number,
        "seed": 123456789 + number,
        "planned_ps": planned,
        "simulated_ps": fails_at or planned,
        "time_to_failure_ps": fails_at,
        "failure": failure,
        "warnings": [],
        "checks": [],
        "mean_temperature": temperature * 1.02,
        "ns_per_day": 0.81 + 0.01 * number,
        "traces": traces(rng, temperature, fails_at or planned, fails_at is not None, points),
    }


def outcome(name, failing, *, temperatures, replicas, planned=1.0, seed=0, points=120):
    """Give what MD with one model came to; `failing`: how many fail at each temperature."""
    rng = np.random.default_rng(seed)
    rows, runs = [], []
    for temperature, n_failing in zip(temperatures, failing, strict=True):
        times = [0.25 * planned + 0.7 * planned * rng.random() for _ in range(n_failing)]
        times += [None] * (replicas - n_failing)
        own = [replica(rng, temperature, i, t, planned, points) for i, t in enumerate(times)]
        total = sum(run["simulated_ps"] for run in own)
        rows.append(
            {
                "temperature": temperature,
                "replicas": replicas,
                "failed": n_failing,
                "total_ps": total,
                "failure_rate_per_ps": n_failing / total,
                "failure_rate_95_upper_per_ps": upper(n_failing, total),
                "failure_rate_95_per_ps": interval(n_failing, total),
                "survival": survival(times, planned),
            }
        )
        runs += own
    failed, total = sum(failing), sum(run["simulated_ps"] for run in runs)
    reason = f"no failure in {len(runs)} replica(s), {total:.3g} ps in all"
    if failed:
        reason = f"{failed} of {len(runs)} replicas failed; bond C0-H5 is 2.21 Å long"
    return {
        "name": name,
        "verdict": "unstable" if failed else "stable",
        "reason": reason,
        "total_ps": total,
        "failed_replicas": failed,
        "failure_rate_per_ps": failed / total,
        "failure_rate_95_upper_per_ps": upper(failed, total),
        "failure_rate_95_per_ps": interval(failed, total),
        "temperatures": rows,
        "replicas": runs,
    }


def bond_lengths(seed, *, shifted):
    rng = np.random.default_rng(seed)
    pairs = []
    for pair, centre, width in (("C-H", 1.10, 0.03), ("C-O", 1.42, 0.035), ("O-H", 0.96, 0.025)):
        edges = np.linspace(centre - 0.25, centre + 0.45, 57)
        training = np.histogram(rng.normal(centre, width, 3000), edges, density=True)[0]
        lengths = rng.normal(centre + (0.05 if shifted else 0.0), 1.2 * width, 3000)
        if shifted:
            lengths[:60] = rng.uniform(centre + 0.1, centre + 0.44, 60)
        md = np.histogram(lengths, edges, density=True)[0]
        record = {"pair": pair, "edges": edges.tolist(), "md": md.tolist()}
        pairs.append({**record, "training": training.tolist() if pair != "O-H" else None})
    return pairs


def static_checks(*, wrong):
    x = np.linspace(0.7, 2.6, 60)
    morse = 4.5 * (1 - np.exp(-2.2 * (x - 1.1))) ** 2
    hole = morse - (3.1 * np.exp(-(((x - 2.0) / 0.08) ** 2)) if wrong else 0.0)
    amplitude = np.linspace(0.02, 0.4, 12)
    ladder = 130 * amplitude**2 * (1 + 0.1 * np.sin(17 * amplitude))

    def curve(title, y, marks=(), x=x, xlabel="distance (Å)"):
        record = {"title": title, "xlabel": xlabel, "ylabel": "energy (eV)"}
        return {**record, "x": x.tolist(), "y": y.tolist(), "marks": list(marks)}

    scans = [
        curve("C0-O1 stretch", 0.9 * morse),
        curve("C0-H5 stretch", hole, [2.0] if wrong else []),
        curve("O1-H3 stretch", 1.1 * morse),
    ]
    rattle = curve("all atoms", ladder, x=amplitude, xlabel="amplitude (Å)")
    return [
        {
            **check("forces", "max |F + ∂E/∂r|, central differences", "eV/Å", worst=2.1e-6),
            "fail_at": 1e-3,
            "curves": [],
        },
        {
            **check("asymmetry", "‖J − Jᵀ‖ / 2‖J‖ of the force Jacobian", worst=3.4e-9),
            "fail_at": 1e-4,
            "curves": [],
        },
        {
            **check("bond scan", "jump of the energy between neighbours", "eV", worst=0.03),
            "fail_at": 0.5,
            "status": "failed" if wrong else "passed",
            "worst": 1.9 if wrong else 0.03,
            "worst_time_fs": None,
            "curves": scans,
        },
        {
            **check("rattle ladder", "energy of rattled structures", "eV", worst=18.2),
            "warn_at": 30.0,
            "curves": [rattle],
        },
        {**check("stress", "not periodic", status="does not apply"), "curves": []},
    ]


def md_checks(*, failed):
    return [
        check("finite", "no energy, force, position or momentum is NaN or infinite"),
        check(
            "bond",
            "|r − r_ref| of bonds between non-metals, twice, 10 fs apart",
            "Å",
            "failed" if failed else "passed",
            1.11 if failed else 0.21,
            fail_at=0.5,
            worst_time_fs=412.5,
        ),
        check(
            "contact",
            "smallest r_ij/(R_i + R_j), minimum image",
            "",
            "warned",
            0.58,
            warn_at=0.6,
            fail_at=0.5,
        ),
        check("drift", "slope of the conserved quantity", "meV/atom/ps", worst=0.21, fail_at=1.0),
        check("cell", "volume and angles", status="does not apply", note="no cell"),
    ]


def reruns():
    again = finding(time_fs=433.0)
    return [
        {
            "what": "half the timestep",
            "timestep": 0.25,
            "replicas": 3,
            "failed": 3,
            "total_ps": 1.4,
            "failure": again,
        },
        {
            "what": "float64",
            "timestep": 0.5,
            "replicas": 3,
            "failed": 3,
            "total_ps": 1.3,
            "failure": again,
        },
        {
            "what": "second model",
            "timestep": 0.5,
            "replicas": 3,
            "failed": 0,
            "total_ps": 3.0,
            "failure": None,
        },
    ]


def failing_frame(first):
    return {
        "symbols": SYMBOLS,
        "positions": POSITIONS,
        "radii": RADII,
        "bonds": BONDS,
        "marked": [0, 5],
        "check": first["check"],
        "message": first["message"],
        "time_ps": first["time_fs"] / 1000,
        "temperature": first["temperature"],
        "replica": first["replica"],
    }


def make_run(
    name, failing=(0, 0), *, temperatures=(300.0, 500.0), replicas=4, compare=None, **more
):
    """Give the content of one `stability.json`."""
    base = outcome(name, failing, temperatures=temperatures, replicas=replicas, **more)
    failed = sum(failing) > 0
    failures = [run["failure"] for run in base["replicas"] if run["failure"]]
    first = min(failures, key=lambda item: item["time_fs"], default=None)
    blame = {
        "cause": "model",
        "reason": "the failure stays at half the timestep and in float64; the second model runs",
        "reruns": reruns(),
    }
    second = None
    if compare:
        second = outcome(compare, (0,) * len(failing), temperatures=temperatures, replicas=replicas)
        second["replicas"] = [{**run, "traces": None} for run in second["replicas"]]
    return {
        "schema_version": 2,
        **base,
        "first_failure": first,
        "blame": blame if failed else None,
        "failures": failures,
        "warnings": [
            finding("contact", "warn", 90.0, message="H2, H4 are 0.36 Å apart, 0.58 of their radii")
        ],
        "checks": md_checks(failed=failed),
        "static": static_checks(wrong=failed),
        "comparison": second,
        "bond_lengths": bond_lengths(1, shifted=failed),
        "failing_frame": failing_frame(first) if first else None,
        "calibration": {"source": "train.xyz", "n_frames": 50, "largest_force": 4.2},
        "settings": {
            "temperatures": list(temperatures),
            "ps": 1.0,
            "replicas": replicas,
            "timestep": 0.5,
            "ensemble": "nvt",
            "seed": 0,
            "formula": "CH4O",
            "n_atoms": 6,
            "calculator": "PotentialCalculator",
            "relaxation": {"converged": True, "steps": 12},
        },
        "provenance": {
            "command": f"ase-ws stability {name}.safetensors methanol.xyz --temperature 300 500",
            "created": "2025-02-03 10:11 UTC",
            "wall_time_s": 71.3,
            "versions": {"ase_ws": "0.1.0", "torch": "2.9.0"},
            "model": f"{name}.safetensors",
        },
    }
