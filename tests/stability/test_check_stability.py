"""`check_stability` on potentials that are known to be good, and on bad ones of each kind."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from toys import (
    CurlSprings,
    NaNSprings,
    Pairwise,
    RaisingSprings,
    Springs,
    WrongSign,
    argon,
    ethanol,
)

from ase_ws.errors import UserError
from ase_ws.md import Finding, run_md
from ase_ws.stability import (
    BondCheck,
    CheckResult,
    check_stability,
    failure_rate,
    failure_rate_upper,
)
from ase_ws.stability.runs.prepare import relax
from ase_ws.stability.verdict.decide import decide, merge_checks

# ---------------------------------------------------------------- good potentials


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_springs_are_stable(ensemble):
    report = check_stability(
        ethanol(), Springs(ethanol()), temperature=300, ps=1.0, ensemble=ensemble
    )
    assert report.verdict == "stable", report.summary()
    assert report.failures == []
    assert report.total_ps == pytest.approx(1.0)
    status = {check.name: check.status for check in report.checks}
    assert status["bond"] == status["drift"] == status["contact"] == status["finite"] == "passed"


def test_copper_is_stable_at_several_temperatures():
    report = check_stability(
        bulk("Cu", cubic=True) * (2, 1, 1), EMT(), temperature=[300, 900], ps=0.5, replicas=2,
        timestep=2.5,
    )  # fmt: skip
    assert report.verdict == "stable", report.summary()
    assert [row.temperature for row in report.temperatures] == [300, 900]
    assert len({replica.seed for replica in report.replicas}) == 4
    assert report.total_ps == pytest.approx(2.0)


def test_argon_is_stable():
    report = check_stability(argon(), Pairwise(), temperature=20, ps=2.0, timestep=5)
    assert report.verdict == "stable", report.summary()


# ---------------------------------------------------------------- bad potentials


def bad(calculator, atoms=None, **changes):
    # What MD sees; the static checks have tests of their own.
    settings = {"temperature": 300, "ps": 1.0, "seed": 3, "static": False, **changes}
    report = check_stability(atoms if atoms is not None else ethanol(), calculator, **settings)
    assert report.verdict == "unstable", report.summary()
    return report


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_curl_is_caught_by_the_drift(ensemble):
    report = bad(CurlSprings(ethanol()), ensemble=ensemble, relax_steps=0)
    assert report.failures[0].check == "drift"
    assert report.failures[0].value > 10


def test_nan_is_caught():
    report = bad(NaNSprings(ethanol()))
    assert report.failures[0].check == "finite"
    assert report.replicas[0].time_to_failure_ps == pytest.approx(report.replicas[0].simulated_ps)


def test_nan_from_the_start_is_caught():
    calculator = NaNSprings(ethanol())
    calculator.reach = -1.0
    report = bad(calculator)
    assert report.failures[0].check == "relaxation"
    report = bad(calculator, relax_steps=0)
    assert report.failures[0].check == "finite"
    assert report.total_ps == 0
    assert report.failure_rate_per_ps is None
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["total_ps"] == 0


def test_a_calculator_that_raises_is_caught():
    report = bad(RaisingSprings(ethanol()))
    assert report.failures[0].check == "calculator"
    assert "ValueError: neighbour list: too many neighbours" in report.failures[0].message
    assert {check.name: check.status for check in report.checks}["calculator"] == "failed"


def test_keyboard_interrupt_passes():
    calculator = RaisingSprings(ethanol())
    calculator.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        check_stability(ethanol(), calculator, temperature=300, ps=1.0, seed=3)


def test_a_hole_at_short_range_is_caught():
    report = bad(Pairwise(hole=3.3), argon(), temperature=100, ps=10.0, timestep=2)
    assert report.failures[0].check == "contact"
    assert len(report.failures[0].atoms) == 2


def test_wrong_sign_is_caught():
    start = ethanol()
    start.rattle(0.02, seed=1)
    assert bad(WrongSign(ethanol()), start).failures[0].check == "relaxation"
    report = bad(WrongSign(ethanol()), start, relax_steps=0)
    assert report.failures[0].check in ("bond", "energy", "force", "temperature")


# ---------------------------------------------------------------- evidence


def test_too_short_is_inconclusive():
    report = check_stability(ethanol(), Springs(ethanol()), temperature=300, ps=0.02)
    assert report.verdict == "inconclusive"
    assert "1 ps are needed" in report.reason


def test_many_runs_too_short_for_the_drift_are_inconclusive():
    report = check_stability(
        ethanol(), Springs(ethanol()), temperature=300, ps=0.1, replicas=2, min_ps=0.2
    )
    assert report.verdict == "inconclusive"
    assert "drift" in report.reason


def test_frozen_is_inconclusive():
    class Sticky(Springs):
        """Brakes every atom, whatever the thermostat does."""

        def spoil(self, atoms, lengths):
            self.results = {
                "energy": 0.0,
                "forces": -0.8 * atoms.get_velocities() * atoms.get_masses()[:, None],
            }

    report = check_stability(
        ethanol(), Sticky(ethanol()), temperature=300, ps=1.0, ensemble="nve", relax_steps=0,
        checks=None,
    )  # fmt: skip
    frozen = next(check for check in report.checks if check.name == "frozen")
    assert frozen.status == "warned"
    # Braking also drains the conserved quantity, which is a failure in its own right; without
    # that the frozen run would have been no evidence.
    _, reason = decide([], report.warnings, report.checks, report.replicas, min_ps=0.1)
    assert "nothing moves" in reason


def test_poisson_bound():
    assert failure_rate_upper(0, 10.0) == pytest.approx(0.29957, rel=1e-4)
    # Tables of Poisson upper limits (95 %, one-sided): 4.744 for one, 15.71 for nine... events.
    assert failure_rate_upper(1, 1.0) == pytest.approx(4.744, abs=1e-3)
    assert failure_rate_upper(9, 1.0) == pytest.approx(15.705, abs=1e-3)
    assert failure_rate(3, 6.0) == 0.5
    assert failure_rate(0, 0.0) is None
    assert failure_rate_upper(0, 0.0) is None


def test_the_report_has_the_bound():
    report = check_stability(ethanol(), Springs(ethanol()), temperature=300, ps=0.05, replicas=2)
    assert report.failure_rate_per_ps == 0
    assert report.failure_rate_95_upper_per_ps == pytest.approx(2.9957 / 0.1, rel=1e-3)


def test_merge_takes_the_worst():
    runs = [
        [CheckResult("a", "d", fail_at=1.0, worst=0.2, status="passed")],
        [CheckResult("a", "d", fail_at=4.0, worst=1.2, status="passed")],
        [CheckResult("a", "d", status="not judged")],
    ]
    assert merge_checks(runs)[0].worst == 1.2
    runs.append([CheckResult("a", "d", fail_at=1.0, worst=0.1, status="failed")])
    assert merge_checks(runs)[0].status == "failed"


# ---------------------------------------------------------------- relaxation


def test_relaxation_keeps_the_input_and_finds_the_minimum():
    start = ethanol()
    start.rattle(0.05, seed=1)
    start.calc = Springs(ethanol())
    before = start.copy()
    outcome = relax(start)
    assert start == before
    assert outcome.converged
    assert outcome.findings == []
    assert outcome.largest_force < 0.05


def test_relaxation_that_does_not_converge_warns():
    start = ethanol()
    start.rattle(0.05, seed=1)
    start.calc = Springs(ethanol())
    outcome = relax(start, steps=2)
    assert outcome.failure is None
    assert "did not converge in 2 steps" in outcome.findings[0].message


def test_relaxation_that_raises_fails():
    start = ethanol()
    start.calc = RaisingSprings(ethanol())
    start.calc.lengths = start.calc.lengths * 1.8  # what it wants is more than it bears
    start.calc.reach = -0.3
    outcome = relax(start)
    assert outcome.failure is not None
    assert "ValueError: neighbour list" in outcome.failure.message


def test_relaxation_that_breaks_a_bond_fails():
    start = ethanol()
    start.calc = Springs(ethanol())
    start.calc.lengths = start.calc.lengths * 1.8
    outcome = relax(start)
    assert outcome.failure is not None
    assert "bond" in outcome.failure.message


# ---------------------------------------------------------------- report and files


def test_report_round_trip_and_files(tmp_path):
    labels = []
    report = check_stability(
        ethanol(), NaNSprings(ethanol()), temperature=[200.0, 300.0], ps=0.3, replicas=2, seed=3,
        out=tmp_path / "stability", progress=lambda done, total, label: labels.append(label),
        static=False,
    )  # fmt: skip
    record = json.loads((tmp_path / "stability" / "stability.json").read_text())
    assert record == json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["schema_version"] == 2
    assert record["verdict"] == "unstable"
    assert {"failures", "total_ps", "failure_rate_per_ps", "checks"} <= record.keys()
    assert "300 K, replica 1" in labels
    assert report.verdict in report.summary()

    frames = ase.io.read(tmp_path / "stability" / "candidates.xyz", ":")
    roles = [frame.info["role"] for frame in frames]
    assert roles.count("failing") == roles.count("before") == len(report.failures) == 4
    earlier, before, failing = frames[roles.index("failing") - 2 : roles.index("failing") + 1]
    assert (earlier.info["role"], before.info["role"]) == ("earlier", "before")
    assert before.info["step"] - earlier.info["step"] < 2 * 40  # a frame every 20 fs
    # No energy of the failing model passes for a label.
    assert before.calc is None
    assert before.info["label"] and np.isfinite(before.info["model_energy"])
    assert failing.info["check"] == "finite"
    assert failing.info["step"] == before.info["step"] + 1
    assert failing.info["replica"] == report.failures[0].replica
    assert np.isfinite(before.positions).all()


def test_failing_atoms_are_named_in_the_file(tmp_path):
    bad(Pairwise(hole=3.3), argon(), temperature=100, ps=10.0, timestep=2, out=tmp_path)
    failing = ase.io.read(tmp_path / "candidates.xyz", -1)
    names = failing.info["failing_atoms"].split(", ")
    assert len(names) == 2
    assert all(name.startswith("Ar") for name in names)


def test_traces_are_thinned():
    report = check_stability(
        ethanol(), Springs(ethanol()), temperature=300, ps=0.6, timestep=1, interval=1
    )
    traces = report.replicas[0].traces
    assert {len(trace) for trace in vars(traces).values()} == {500}
    assert traces.time_fs[0] == 0
    assert traces.time_fs[-1] == 600


def test_seed_repeats_and_the_replica_can_be_run_again():
    def report(seed):
        return check_stability(
            ethanol(),
            NaNSprings(ethanol()),
            temperature=300,
            ps=0.5,
            seed=seed,
            relax_steps=0,
            static=False,
        )  # fmt: skip

    first, second, other = report(3), report(3), report(4)
    assert first.replicas[0].time_to_failure_ps == second.replicas[0].time_to_failure_ps
    assert first.replicas[0].seed != other.replicas[0].seed
    again = run_md(
        ethanol(), NaNSprings(ethanol()), temperature=300, steps=1000, seed=first.replicas[0].seed
    )
    assert again.time_ps == first.replicas[0].simulated_ps


def test_input_is_left_alone():
    atoms, calculator = ethanol(), Springs(ethanol())
    atoms.calc = calculator
    before = atoms.copy()
    check_stability(atoms, temperature=300, ps=0.01)
    assert atoms == before
    assert not atoms.has("momenta")
    assert atoms.calc is calculator


def test_own_checks():
    report = check_stability(
        ethanol(), Springs(ethanol()), temperature=300, ps=0.2, timestep=1,
        checks=[BondCheck(fail_at=1e-3, repeat=0)], static=False,
    )  # fmt: skip
    assert report.failures[0].check == "bond"


def test_a_user_check_may_be_anything_with_the_interface():
    assert Finding("mine", "warn", "text", value=float("nan")).to_dict()["value"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": []}, "temperature"),
        ({"temperature": -5}, "temperature"),
        ({"temperature": np.array([300.0, -5.0])}, "^temperature: .*greater than 0"),
        ({"temperature": np.array([-5.0])}, "^temperature: .*greater than 0"),
        ({"temperature": np.array([])}, "^temperature: give one or more"),
        ({"temperature": ()}, "^temperature: give one or more"),
        ({"ps": 0}, "ps"),
        ({"ps": float("nan")}, "ps"),
        ({"timestep": 0}, "timestep"),
        ({"replicas": 0}, "replicas"),
        ({"ensemble": "npt"}, "stress|periodic"),
        ({"ensemble": "nope"}, "ensemble"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"temperature": 300, "ps": 0.01, **change}
    with pytest.raises(UserError, match=message):
        check_stability(ethanol(), Springs(ethanol()), **arguments)


def test_unknown_element_is_bad_input_not_instability():
    with pytest.raises(UserError, match="cannot give"):
        check_stability(bulk("Fe", cubic=True), EMT(), temperature=300, ps=0.01)
    with pytest.raises(UserError, match="no calculator"):
        check_stability(ethanol(), temperature=300, ps=0.01)
