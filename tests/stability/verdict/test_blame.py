"""Who is at fault, survival, calibration, topology, and a second model on the same seeds."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from scipy.stats import poisson
from toys import CurlSprings, NaNSprings, Pairwise, Springs, argon, ethanol, play

from ase_ws import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.results.rates import failure_rate_interval, survival_curve
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability import (
    BondCheck,
    Calibration,
    ContactCheck,
    DetachedHydrogenCheck,
    ForceCheck,
    check_stability,
)
from ase_ws.stability.runs.replicas import batched
from ase_ws.testing import Morse, tiny_mace

# ---------------------------------------------------------------- blame


def blame(calculator, atoms=None, **changes):
    settings = {"temperature": 300, "ps": 1.0, "seed": 3, "static": False, **changes}
    report = check_stability(ethanol() if atoms is None else atoms, calculator, **settings)
    assert report.verdict == "unstable", report.summary()
    return report.blame


def test_a_curl_is_the_models():
    found = blame(CurlSprings(ethanol()), relax_steps=0)
    assert found.cause == "model"
    assert [rerun.what for rerun in found.reruns] == ["half the timestep"]
    assert all(rerun.failed and rerun.failure.check == "drift" for rerun in found.reruns)


def test_a_long_time_step_is_the_time_steps():
    found = blame(Springs(ethanol(), stiff=60.0), timestep=3.0, ensemble="nve", temperature=800)
    assert found.cause == "timestep", found
    assert "(1.5 fs)" in found.reason or "(0.75 fs)" in found.reason


class Coarse(Springs):
    """Forces known to 1 eV/Å only; the exact ones are to be had."""

    def spoil(self, atoms, lengths):
        self.results["forces"] = np.round(self.results["forces"])

    def in_float64(self):
        return Springs(ethanol())


def test_rounding_is_the_precisions():
    found = blame(Coarse(ethanol()), ensemble="nve", relax_steps=0)
    assert found.cause == "precision", found
    assert [rerun.what for rerun in found.reruns] == ["float64"]


def test_overlapping_atoms_are_the_structures():
    start = ethanol()
    start.positions[8] = start.positions[2] + [0.2, 0.0, 0.0]
    found = blame(Springs(start), start, relax_steps=0)
    assert found.cause == "starting structure"
    assert "O2 and H8 are 0.20 Å apart" in found.reason
    report = check_stability(start, Springs(ethanol()), temperature=300, ps=0.02, static=False)
    # Also where the relaxation mends it.
    assert any(item.check == "structure" for item in report.warnings)


def test_a_model_that_cannot_evaluate_the_start_is_the_models():
    calculator = NaNSprings(ethanol())
    calculator.reach = -1.0
    assert blame(calculator).cause == "model"
    assert blame(calculator, relax_steps=0).cause == "model"


class Unlucky(Springs):
    """NaN on one chosen occasion and never again."""

    def spoil(self, atoms, lengths):
        if self.calls == 280:
            self.results["energy"] = np.nan


def test_a_rare_failure_is_not_settled():
    found = blame(Unlucky(ethanol()), replicas=4, ps=0.1, relax_steps=0)
    assert found.cause == "not settled"
    assert all(rerun.by_chance > 0.05 for rerun in found.reruns)


def test_no_blame_without_failure_or_without_reruns():
    report = check_stability(ethanol(), Springs(ethanol()), temperature=300, ps=0.05, static=False)
    assert report.blame is None
    assert blame(NaNSprings(ethanol()), blame=False).cause == "not settled"


# ---------------------------------------------------------------- a second model


def test_the_second_model_runs_with_the_same_seeds(tmp_path):
    report = check_stability(
        ethanol(), NaNSprings(ethanol()), temperature=300, ps=0.3, replicas=2, static=False,
        compare=Springs(ethanol()), compare_name="springs", name="bad", out=tmp_path,
    )  # fmt: skip
    other = report.comparison
    assert report.failed_replicas == 2
    assert (other.name, other.failed_replicas) == ("springs", 0)
    seeds = [replica.seed for replica in report.replicas]
    assert [replica.seed for replica in other.replicas] == seeds
    assert "springs, same seeds" in report.summary()
    assert json.loads((tmp_path / "stability.json").read_text())["comparison"] == other.to_dict()


# ---------------------------------------------------------------- replicas in a batch


def test_batched_and_one_by_one_are_the_same_campaign():
    """The replica engine is an inner matter: same seeds, same runs, same report."""
    mace = tiny_mace((1, 8), e0=(-13.6, -2041.0))
    atoms = molecule("H2O")
    settings = {"temperature": [100, 200], "ps": 0.02, "replicas": 2, "static": False}
    together = check_stability(atoms, PotentialCalculator(mace), relax_steps=0, **settings)

    class Other(PotentialCalculator):
        """Not known to the engine, so it goes through run_md."""

    alone = check_stability(atoms, Other(mace), relax_steps=0, **settings)
    for a, b in zip(together.replicas, alone.replicas, strict=True):
        assert (a.temperature, a.replica, a.seed) == (b.temperature, b.replica, b.seed)
        np.testing.assert_allclose(
            a.traces.conserved_ev_per_atom, b.traces.conserved_ev_per_atom, rtol=1e-8
        )
        assert a.bonds.keys() == b.bonds.keys()


def test_what_goes_through_the_engine():
    settings = StabilitySettings(temperatures=300, ps=1, timestep=1)
    water = molecule("H2O")
    water.calc = EMT()
    assert not batched(water, settings)
    water.calc = PotentialCalculator(Morse())
    assert batched(water, settings)


# ---------------------------------------------------------------- rates and survival


@pytest.mark.parametrize("n", [1, 4, 20])
def test_the_interval_of_the_rate_is_exact(n):
    low, high = failure_rate_interval(n, 10.0)
    assert poisson.sf(n - 1, 10 * low) == pytest.approx(0.025)
    assert poisson.cdf(n, 10 * high) == pytest.approx(0.025)


def test_the_interval_without_failure_or_time():
    assert failure_rate_interval(0, 10.0) == (0.0, pytest.approx(0.29957, rel=1e-4))
    assert failure_rate_interval(0, 0.0) is None


def test_survival_counts_runs_at_risk():
    curve = survival_curve([1.0, 2.0, 2.0, 5.0], [True, True, False, False])
    assert curve.time_ps == [0.0, 1.0, 2.0, 5.0]
    assert curve.fraction == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert all(
        0 <= a <= s <= b <= 1 for s, a, b in zip(curve.fraction, curve.low, curve.high, strict=True)
    )
    assert survival_curve([5.0] * 4, [False] * 4).low[-1] > 0.4
    assert survival_curve([], []).time_ps == []


# ---------------------------------------------------------------- calibration


def test_calibration_reads_the_data_and_sets_the_limits(tmp_path):
    frames = []
    for k in range(5):
        frame = ethanol()
        frame.rattle(0.05, seed=k)
        frame.calc = Springs(ethanol())
        frame.get_forces()
        frames.append(frame)
    calibration = Calibration.of(frames, source="made up")
    largest = max(np.linalg.norm(frame.get_forces(), axis=1).max() for frame in frames)
    assert calibration.largest_force == pytest.approx(largest)
    assert 0.7 < calibration.smallest_contact < 1.0
    contact, force = ContactCheck(), ForceCheck()
    calibration.apply([contact, force])
    assert contact.warn_at == pytest.approx(0.9 * calibration.smallest_contact)
    assert contact.fail_at == 0.5
    assert force.largest_training_force == calibration.largest_force
    report = check_stability(
        ethanol(), Springs(ethanol()), temperature=300, ps=0.05, calibration=calibration,
        static=False,
    )  # fmt: skip
    pair = next(item for item in report.bond_lengths if item.pair == "C-H")
    assert sum(pair.training) * 0.02 == pytest.approx(1)
    assert sum(pair.md) * 0.02 == pytest.approx(1)
    assert report.calibration["n_frames"] == 5
    with pytest.raises(UserError, match="no frames"):
        Calibration.of([])


def test_data_with_close_contacts_lower_the_limit():
    near = Atoms("H2", positions=[[0, 0, 0], [0.3, 0, 0]])
    contact = ContactCheck()
    Calibration.of([near]).apply([contact])
    assert contact.fail_at == pytest.approx(0.8 * 0.3 / 0.62)


# ---------------------------------------------------------------- topology


def show(check, frames):
    """All findings on frames that are 10 fs apart."""
    shots = [{"atoms": frame, "time": 10.0 * k} for k, frame in enumerate(frames)]
    return play(check, frames[0], shots)


@pytest.mark.parametrize(("topology", "fails"), [("fixed", True), ("reactive", False)])
def test_a_bond_may_break_in_reactive_mode(topology, fails):
    start = molecule("CH3OH")
    frames = [start.copy() for _ in range(20)]
    axis = start.positions[1] - start.positions[0]
    for k, frame in enumerate(frames):
        frame.positions[[1, 3]] += 0.05 * k * axis / np.linalg.norm(axis)
    findings = show(BondCheck(topology=topology), frames)
    assert any(item.severity == "fail" for item in findings) == fails
    assert ("reaction" in findings[0].message) != fails


@pytest.mark.parametrize(("topology", "fails"), [("fixed", True), ("reactive", False)])
def test_hydrogen_may_leave_in_reactive_mode(topology, fails):
    frames = []
    for k in range(20):
        pair = [[1.0 + 0.2 * k, 0.37, 0], [1.0 + 0.2 * k, -0.37, 0]]
        frames.append(Atoms("OH2", positions=[[0, 0, 0], *pair]))
    findings = show(DetachedHydrogenCheck(topology=topology), frames)
    assert any(item.severity == "fail" for item in findings) == fails


def test_copper_and_argon_still_pass():
    assert check_stability(
        bulk("Cu", cubic=True) * 2, EMT(), temperature=300, ps=0.3, timestep=3, min_ps=0.2,
        topology="reactive", static=False,
    ).failures == []  # fmt: skip
    assert not check_stability(argon(), Pairwise(), temperature=20, ps=0.2, timestep=5,
                               static=False).failures  # fmt: skip
