"""Calculators that go bad after n calls: a verdict that is never "stable", wherever n falls."""

import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.io import write

from ase_ws import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.potentials.files import save_potential
from ase_ws.report import write_stability_report
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability import check_stability, check_trajectory
from ase_ws.stability.campaign import make_config, run_campaign
from ase_ws.stability.campaign.inputs import Pair
from ase_ws.stability.campaign.units import _calculators
from ase_ws.stability.runs.replicas import Run, _translating
from ase_ws.stability.static import Repeatable
from ase_ws.stability.static.probe import Probe
from ase_ws.stability.verdict.blame import find_blame
from ase_ws.testing import Morse, tiny_mace

SETTINGS = {"temperature": 30, "ps": 0.6, "timestep": 2.0, "min_ps": 0.5, "seed": 1}


class OddError(Exception):
    """Derived from nothing that anybody could know."""


def raising(error):
    def go(turns, atoms, n):
        raise error

    return go


def result(**changes):
    def go(turns, atoms, n):
        turns.results.update({k: change(turns.results[k], n) for k, change in changes.items()})

    return go


def gone(name):
    def go(turns, atoms, n):
        del turns.results[name]

    return go


def stale(turns, atoms, n):
    turns.frozen = turns.frozen or dict(turns.results)
    turns.results = dict(turns.frozen)


def in_place(turns, atoms, n):
    turns.given.positions[0, 0] += 0.01


WAYS = {
    "energy NaN": result(energy=lambda e, n: np.nan),
    "energy -inf": result(energy=lambda e, n: -np.inf),
    "energy None": result(energy=lambda e, n: None),
    "energy of two": result(energy=lambda e, n: np.array([e, e])),
    "energy a string": result(energy=lambda e, n: "none"),
    "energy gone": gone("energy"),
    "forces gone": gone("forces"),
    "forces NaN": result(forces=lambda f, n: f * np.nan),
    "one force inf": result(forces=lambda f, n: f + np.where(np.eye(len(f), 3) > 0, np.inf, 0)),
    "forces None": result(forces=lambda f, n: None),
    "forces of too few": result(forces=lambda f, n: f[:-1]),
    "forces flat": result(forces=lambda f, n: f.ravel()),
    "forces of one": result(forces=lambda f, n: f[:1]),
    "RuntimeError": raising(RuntimeError("no convergence")),
    "an odd Exception": raising(OddError("what nobody knows")),
    "CalculationFailed": raising(CalculationFailed("SCF")),
    "ValueError": raising(ValueError("singular")),
    "StopIteration": raising(StopIteration("no more")),
    "lost subprocess": raising(BrokenPipeError(32, "Broken pipe")),
    "end of file": raising(EOFError("pipe")),
    "forces of another energy": result(forces=lambda f, n: 1.5 * f),
    "another energy": result(energy=lambda e, n: e + 0.01),
    "energy that drifts": result(energy=lambda e, n: e + 1e-4 * n),
    "stale": stale,
    "in place": in_place,
}


def morse(atoms, depth=0.3, r0=3.8, a=1.6):
    first, second = np.triu_indices(len(atoms), 1)
    vectors = atoms.positions[second] - atoms.positions[first]
    r = np.linalg.norm(vectors, axis=1)
    rise = 1.0 - np.exp(-a * (r - r0))
    pull = (2.0 * depth * a * rise * (1.0 - rise) / r)[:, None] * vectors
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, first, pull)
    np.add.at(forces, second, -pull)
    return {"energy": depth * float((rise**2 - 1.0).sum()), "forces": forces}


class Turns(Calculator):
    """Morse, until call number `after`; from then on (or only then: `once`) bad in one way."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, way, after, once=False):
        super().__init__()
        self.way, self.after, self.once = way, after, once
        self.asked, self.frozen, self.given = 0, None, None

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, list(properties), list(system_changes))
        self.asked, self.given = self.asked + 1, atoms
        self.results = morse(atoms)
        bad = self.asked == self.after if self.once else self.asked >= (self.after or np.inf)
        if self.way is not None and bad:
            WAYS[self.way](self, atoms, self.asked - self.after + 1)


class OwnGetter(Turns):
    """The same, but its results cannot be read past its getter."""

    def get_property(self, name, atoms=None, allow_calculation=True):
        return super().get_property(name, atoms, allow_calculation)


def start(a=3.9):
    return Atoms("Ar3", [[0, 0, 0], [a, 0, 0], [a / 2, a * np.sqrt(3) / 2, 0]])


MACHINES = ("lost subprocess", "end of file")
#: What a calculator that never answered otherwise gives at its first call: a bad set-up.
NO_ANSWER = [
    way for way in WAYS
    if way.startswith(("energy None", "energy of", "energy a", "forces None", "forces of too"))
    or way.startswith(("forces flat", "forces of one", "in place"))
    or way.endswith("gone")
    or not way.startswith(("energy", "one force", "forces", "another", "stale"))
]  # fmt: skip


@pytest.fixture(scope="module")
def stages():
    """Numbers of calls in the course of a check that finds nothing."""
    calculator, first = Turns(None, None), {}
    report = check_stability(
        start(), calculator, **SETTINGS,
        progress=lambda _, __, label: first.setdefault(label.split(",")[0], calculator.asked),
    )  # fmt: skip
    assert report.verdict == "stable", report.summary()
    relaxation, static, md = first["repeatable"], first["bond_scan"], first["30 K"]
    return {
        "relaxation": relaxation // 2,
        "static checks": static + 3,
        "MD": (md + calculator.asked) // 2,
        # The last two are those of the structures asked for again.
        "last step": calculator.asked - 2,
    }


#: Of ways that are met by the same line of code, one goes through all stages.
EVERYWHERE = (
    "energy NaN", "energy gone", "forces gone", "forces of too few", "an odd Exception",
    "lost subprocess", "forces of another energy", "energy that drifts", "stale", "in place",
)  # fmt: skip


@pytest.mark.parametrize(
    ("way", "stage"),
    [
        (way, stage)
        for way in WAYS
        for stage in ("relaxation", "static checks", "MD", "last step")
        if way in EVERYWHERE or stage == "MD"
    ],
)
def test_a_calculator_that_goes_bad_is_never_stable(way, stage, stages, tmp_path):
    calculator = Turns(way, stages[stage])
    report = check_stability(start(), calculator, **SETTINGS, out=tmp_path)
    assert calculator.asked >= stages[stage]
    if way == "energy that drifts" and stage == "last step":
        pytest.skip("0.1 meV off: as much as rounding may be")
    json.dumps(report.to_dict(), allow_nan=False)
    write_stability_report([report.to_dict()], tmp_path / "report.html")
    if way in MACHINES:
        assert report.verdict == "inconclusive"
        assert report.blame is None
        assert "the calculator was lost" in report.reason
        return
    assert report.verdict == "unstable", report.summary()
    assert report.blame.cause == "model", report.blame
    assert cause_is_named(way, [finding.message for finding in report.failures])


@pytest.mark.parametrize("way", [way for way in EVERYWHERE if way not in MACHINES])
def test_the_same_with_a_getter_of_its_own(way, stages):
    report = check_stability(start(), OwnGetter(way, stages["MD"]), **SETTINGS, blame=False)
    plain = check_stability(start(), Turns(way, stages["MD"]), **SETTINGS, blame=False)
    assert report.failures == plain.failures
    assert report.verdict == "unstable"


def cause_is_named(way, messages):
    words = {
        "NaN": "nan|not finite", "inf": "inf|not finite", "None": "None", "of two": "2 numbers",
        "string": "could not convert", "of too few": "of shape", "flat": "of shape",
        "of one": "of shape", "in place": "changes the positions", "Error": way, "Failed": way,
        "odd": "OddError: what nobody knows", "Stop": way,
        "another": "answers differently|not the gradient|is not twice|changes the energy",
        "drifts": "answers differently|not the gradient|is not twice", "stale": "",
        "energy gone": "gives no energy", "forces gone": "gives no forces",
    }  # fmt: skip
    wanted = next(value for key, value in words.items() if key in way)
    return any(re.search(wanted, message) for message in messages)


@pytest.mark.parametrize("way", WAYS)
def test_one_that_never_answers_is_a_bad_set_up(way):
    if way in NO_ANSWER:
        with pytest.raises(UserError, match="cannot give energy and forces of the starting"):
            check_stability(start(), Turns(way, 1), **SETTINGS)
    else:
        report = check_stability(start(), Turns(way, 1), **{**SETTINGS, "ps": 0.01})
        assert report.verdict != "stable"


@pytest.mark.parametrize("way", ["energy NaN", "an odd Exception"])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_once_is_enough(way, k, stages):
    """Also where it falls on an evaluation that looks for something else."""
    for place in (2 + k, stages["relaxation"] * 2 + k, stages["MD"] + k):
        calculator = Turns(way, place, once=True)
        report = check_stability(start(), calculator, **SETTINGS, blame=False)
        assert report.verdict == "unstable", (place, report.summary())


class Holed(Turns):
    """Fails in MD in any case, so that there are reruns to fall over."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        if np.linalg.norm(atoms.positions[0] - atoms.positions[1]) > 3.82:
            self.results = {"energy": np.nan, "forces": self.results["forces"]}


@pytest.mark.parametrize("way", ["energy NaN", "an odd Exception", "lost subprocess", "stale"])
def test_the_reruns_of_the_blame_end_too(way):
    settings = {**SETTINGS, "static": False, "ps": 0.3, "temperature": [60, 90], "replicas": 2}
    settings["relax_steps"] = 0
    control = Holed(None, None)
    report = check_stability(start(3.8), control, **settings, blame=False)
    assert report.failed_replicas >= 2
    before = control.asked
    check_stability(start(3.8), control, **settings)
    n_reruns = control.asked - 2 * before
    assert n_reruns > 20
    for after in (before + 1, before + 2, before + 3, before + n_reruns // 2, before + n_reruns):
        report = check_stability(start(3.8), Holed(way, after), **settings)
        assert report.verdict == "unstable"
        assert report.blame.cause in ("model", "not settled", "timestep")


def test_a_rerun_that_fails_at_its_start_blames_the_model():
    """The known case: NaN for ever, from some call in the second replica on."""
    settings = {**SETTINGS, "static": False, "ps": 0.3}
    control = Turns(None, None)
    check_stability(start(), control, **settings)
    calculator = Turns("energy NaN", control.asked + 20)
    report = check_stability(start(), calculator, **settings, replicas=2)
    assert report.blame.cause == "model"
    again = StabilitySettings(temperatures=30, ps=0.3, timestep=2.0)
    begin = start()
    begin.calc = calculator
    found = find_blame(begin, again, [run.result for run in runs_of(report)], [])
    assert found.cause == "model"
    assert "has begun MD from this structure before" in found.reason


def test_a_batch_prepares_no_network_anew():
    calculator = PotentialCalculator(tiny_mace((18,)))
    assert _translating(calculator).evaluator is calculator.evaluator


def runs_of(report):
    return [Run(replica, []) for replica in report.replicas]


def test_the_second_model_may_go_bad(stages):
    settings = {**SETTINGS, "static": False}
    control = Turns(None, None)
    check_stability(start(), control, **settings)
    for way in ("energy NaN", "an odd Exception", "lost subprocess", "forces of another energy"):
        for after in (2, control.asked - 2):
            report = check_stability(
                start(), Turns(None, None), compare=Turns(way, after), **settings
            )
            assert report.verdict == "stable"
            assert report.comparison.verdict != "stable", (way, after)
    with pytest.raises(UserError, match="cannot give"):
        check_stability(start(), control, compare=Turns("an odd Exception", 1), **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_trajectory_evaluated_by_it(way, tmp_path):
    moving = start()
    moving.calc = Turns(None, None)
    frames = []
    velocity = 0.002 * np.arange(9).reshape(3, 3)
    for k in range(80):
        moving.positions = start().positions + 0.1 * np.sin(k / 3) * velocity
        frames.append(moving.copy())
    settings = {"frame_interval": 10.0, "temperature": 30, "min_ps": 0.5}
    assert check_trajectory(frames, Turns(None, None), **settings).verdict == "stable"
    for after in (5, 40, 84):
        report = check_trajectory(frames, Turns(way, after), **settings, out=tmp_path)
        wanted = "inconclusive" if way in MACHINES else "unstable"
        if way != "energy that drifts" or after < 84:
            assert report.verdict == wanted, (after, report.summary())
    if way in NO_ANSWER:
        with pytest.raises(UserError, match="cannot give"):
            check_trajectory(frames, Turns(way, 1), **settings)


def test_the_machine_keeps_what_has_been_found():
    """A failure stays one, and the replicas that ended are there."""
    settings = {**SETTINGS, "static": False, "ps": 0.3, "min_ps": 0.1, "replicas": 3}
    control = Turns(None, None)
    check_stability(start(), control, **{**settings, "replicas": 1})
    report = check_stability(
        start(), Turns("lost subprocess", int(1.5 * control.asked)), **settings
    )
    assert report.verdict == "inconclusive"
    assert [replica.failure for replica in report.replicas] == [None]
    assert report.total_ps == pytest.approx(0.3)
    assert "machine" in {finding.check for finding in report.warnings}


class Noisy(Turns):
    """Another random number each time, of `sigma` (eV)."""

    def __init__(self, sigma):
        super().__init__(None, None)
        self.sigma, self.rng = sigma, np.random.default_rng(0)

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] += self.sigma * self.rng.standard_normal()


@pytest.mark.parametrize(("sigma", "status"), [(0.0, "passed"), (1e-4, "passed"), (5e-3, "failed")])
def test_repeatable(sigma, status):
    atoms = start()
    atoms.calc = Noisy(sigma)
    result = Repeatable().run(atoms)
    assert result.check.status == status
    assert bool(result.findings) == (status == "failed")


def test_repeatable_knows_a_new_structure_from_a_changed_answer():
    atoms, other = start(), start()
    other.positions[0] -= 0.2
    atoms.calc = other.calc = Turns(None, None)
    check = Repeatable()
    assert [check.run(a).check.status for a in (atoms, other)] == ["passed", "passed"]
    probe = Probe(atoms)
    check.run_probe(probe)
    atoms.calc.way, atoms.calc.after = "another energy", 1
    assert check.run_probe(probe).check.status == "failed"


def test_float32_numbers_of_a_large_energy_may_differ_by_their_spacing():
    """On a GPU the order of a sum, and with it the last bit, changes from call to call."""
    spacing = float(np.spacing(np.float32(2e4)))
    atoms = start()
    atoms.calc = Noisy(0.0)
    atoms.calc.once = False
    base = atoms.calc.calculate

    def calculate(a, *args):
        base(a, *args)
        atoms.calc.results["energy"] += 2e4 + spacing * (atoms.calc.asked % 2)

    atoms.calc.calculate = calculate
    result = Repeatable().run(atoms)
    assert result.check.status == "passed"
    assert "float32" in result.check.note


# ---------------------------------------------------------------- batches and campaigns


class Wearing(Morse):
    """A potential of this package that goes bad after `after` evaluations."""

    after, calls, error = 10**9, 0, None

    def forward(self, batch, *, forces, stress=False, create_graph=False):
        Wearing.calls += 1
        prediction = super().forward(batch, forces=forces, stress=stress, create_graph=create_graph)
        if Wearing.calls < Wearing.after:
            return prediction
        if Wearing.error is not None:
            raise Wearing.error
        return prediction._replace(energy=prediction.energy * np.nan)


@pytest.fixture
def wearing(monkeypatch):
    """Set at which call it goes bad, and how."""

    def make(after, error=None):
        monkeypatch.setattr(Wearing, "after", after)
        monkeypatch.setattr(Wearing, "calls", 0)
        monkeypatch.setattr(Wearing, "error", error)
        return PotentialCalculator(Wearing(depth=0.3, a=1.6, r0=1.3, r_max=4.0))

    return make


def four():
    return Atoms("H2O2", 1.3 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))


@pytest.mark.parametrize("error", [None, OddError("what"), RuntimeError("what")])
def test_a_batch_of_replicas(wearing, error):
    settings = {"temperature": 20, "ps": 0.05, "replicas": 3, "min_ps": 0.01, "static": False}
    check_stability(four(), wearing(10**9), **settings)
    total = Wearing.calls
    for after in (total // 2, total - 2):
        report = check_stability(four(), wearing(after, error), **settings)
        assert report.verdict == "unstable", (after, total)
        assert report.blame.cause == "model"


@pytest.mark.parametrize("error", [None, OddError("what"), BrokenPipeError(32, "Broken pipe")])
@pytest.mark.parametrize("stage", ["first", "relaxation", "replicas", "second pair"])
def test_a_campaign(error, stage, wearing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_potential(tiny_mace((1, 8), hidden_irreps="4x0e", num_bessel=3), "m.safetensors")
    write("one.xyz", four())
    write("two.xyz", four())
    config = make_config(
        {
            "models": {"m": "m.safetensors"}, "structures": ["one.xyz", "two.xyz"],
            "temperatures": 20, "ps": 0.02, "min_ps": 0.0, "static": False,
        }
    )  # fmt: skip
    calculator = wearing(10**9)
    monkeypatch.setattr(Pair, "calculator", lambda pair: calculator)
    units = "ase_ws.stability.campaign.units._calculators"
    monkeypatch.setattr(units, type(_calculators)())
    run_campaign(config, "control", workers=1)
    at = {"first": 1, "relaxation": 3, "replicas": 40, "second pair": Wearing.calls - 3}[stage]
    wearing(at, error)
    if isinstance(error, OSError):
        with pytest.raises(UserError, match=r"lost|starting structure"):
            run_campaign(config, "out", workers=1)
        wearing(10**9)
        assert run_campaign(config, "out", workers=1, resume=True)["complete"]
        return
    summary = run_campaign(config, "out", workers=1)
    assert summary["complete"]
    assert summary["verdict"] == "unstable"
    assert all(row["blame"]["cause"] == "model" for row in summary["rows"] if row["first_failure"])
