"""What `stability.json` holds: every field, its unit, and what may be absent.

`StabilityResults.model_json_schema()` is the documentation of the file (`ase-ws report --schema`
prints it). Every field may be absent or null, and a number that is not finite counts as absent, so
that a file of an older version (1 has no blame, survival, static checks, bond lengths or failing
frame) or of half a campaign can be shown all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from ase_ws.errors import UserError
from ase_ws.results.fields import (
    Finite,
    FiniteList,
    Index,
    IndexList,
    Part,
    Table,
    Text,
    none_is_empty_list,
)

STABILITY_SCHEMA_VERSION = 2
"""The newest version of `stability.json` that this package reads."""

_List = BeforeValidator(none_is_empty_list)
_VERDICTS = {"enum": ["stable", "unstable", "inconclusive"]}
_STATUSES = {"enum": ["passed", "warned", "failed", "not judged", "does not apply"]}
_CAUSES = {"enum": ["model", "timestep", "precision", "starting structure", "not settled"]}


def _number(description: str) -> Any:
    return Field(None, description=description)


def _text(description: str, **more: Any) -> Any:
    return Field("", description=description, json_schema_extra=more or None)


def _list(description: str) -> Any:
    return Field(default_factory=list, description=description)


class Finding(Part):
    """What one check had to say about one moment of one run."""

    check: Text = _text("Name of the check.")
    severity: Text = _text("A failure stops the run.", enum=["warn", "fail"])
    message: Text = _text("One line for people.")
    value: Finite = _number("What was measured, in the unit of the check.")
    threshold: Finite = _number("Its limit, in the unit of the check.")
    atoms: IndexList = _list("Atoms it is about, counted from 0; empty: the whole system.")
    step: Finite = _number("MD step.")
    time_fs: Finite = _number("Time since the start of the run in fs.")
    temperature: Finite = _number("Set temperature in K.")
    replica: Index = _number("Number of the replica at this temperature, from 0.")


class CheckResult(Part):
    """How one check ended: in one run, or the worst of all runs."""

    name: Text = _text("Name of the check.")
    definition: Text = _text("What is measured, as an equation or in words.")
    unit: Text = _text("Unit of the limits and of the worst value.")
    warn_at: Finite = _number("Beyond this the check warns.")
    fail_at: Finite = _number("Beyond this the check fails.")
    worst: Finite = _number("Worst value that was met.")
    worst_time_fs: Finite = _number("When, in fs since the start of the run.")
    status: Text = _text("How it ended.", **_STATUSES)
    note: Text = _text("What a reader needs beside the numbers.")


class Curve(Part):
    """One curve of a static check: a scan, a ladder of rattled structures, an equation of state."""

    title: Text = _text("What was varied, such as 'C0-O1 stretch'.")
    xlabel: Text = _text("Quantity and unit of x.")
    ylabel: Text = _text("Quantity and unit of y.")
    x: FiniteList = _list("Points along the curve.")
    y: FiniteList = _list("Values; null where the model gave none.")
    marks: FiniteList = _list("The x at which something is wrong.")


class StaticCheck(CheckResult):
    """A check that needs no MD, with the curves that it looked at."""

    curves: Annotated[list[Curve], _List] = _list("What was scanned; often nothing.")


class Rerun(Part):
    """The failing runs once more, with one thing changed."""

    what: Text = _text(
        "What was changed.", examples=["half the timestep", "float64", "second model"]
    )
    timestep: Finite = _number("Time step in fs.")
    replicas: Index = _number("How many runs were repeated.")
    failed: Index = _number("How many of them failed again.")
    total_ps: Finite = _number("Simulated time in ps, all of them together.")
    by_chance: Finite = _number(
        "Probability that none of them fails although the rate is that of the original."
    )
    failure: Finding | None = Field(None, description="The first failure among them.")


class Blame(Part):
    """Why it failed, as the reruns tell."""

    cause: Text = _text("What is to blame.", **_CAUSES)
    reason: Text = _text("How the reruns tell, in one line.")
    reruns: Annotated[list[Rerun], _List] = _list("What was run once more.")


class Survival(Part):
    """Kaplan-Meier estimate of the fraction that has not failed, with a 95 % band."""

    time_ps: FiniteList = _list("Times in ps at which the steps are.")
    fraction: FiniteList = _list("Fraction without a failure from this time on, 0 to 1.")
    low: FiniteList = _list("Lower edge of the 95 % band.")
    high: FiniteList = _list("Upper edge of the 95 % band.")


class Rate(Part):
    """Counted failures, the time in which they were counted, and the rate that follows."""

    total_ps: Finite = _number("Simulated time in ps, until each run failed or ended.")
    failure_rate_per_ps: Finite = _number("Failures per simulated time, 1/ps.")
    failure_rate_95_upper_per_ps: Finite = _number(
        "Exact one-sided 95 % upper limit of the rate (Poisson), 1/ps; with no failure 3/total_ps."
    )
    failure_rate_95_per_ps: FiniteList = _list(
        "Exact two-sided 95 % interval of the rate (Garwood 1936): low and high, 1/ps."
    )


class AtTemperature(Rate):
    """All replicas at one temperature."""

    temperature: Finite = _number("Set temperature in K.")
    replicas: Index = _number("Number of runs.")
    failed: Index = _number("Number of runs that failed.")
    survival: Survival | None = Field(None, description="How long the runs lasted.")


class Traces(Part):
    """Quantities along one run, thinned for plots; all lists have one length."""

    step: FiniteList = _list("MD step.")
    time_fs: FiniteList = _list("Time in fs.")
    potential_ev_per_atom: FiniteList = _list("Potential energy, eV/atom.")
    kinetic_ev_per_atom: FiniteList = _list("Kinetic energy, eV/atom.")
    conserved_ev_per_atom: FiniteList = _list("Conserved quantity of the integrator, eV/atom.")
    temperature_k: FiniteList = _list("Kinetic temperature, K.")
    volume_a3: FiniteList = _list("Volume of the cell, Å³.")


class Replica(Part):
    """One run at one temperature."""

    temperature: Finite = _number("Set temperature in K.")
    replica: Index = _number("Number of the run at this temperature, from 0.")
    seed: Index = _number("Seed that repeats the run (`ase-ws md --seed`).")
    planned_ps: Finite = _number("Wanted length in ps.")
    simulated_ps: Finite = _number("Length until a failure or the end, in ps.")
    time_to_failure_ps: Finite = _number("When it failed, in ps; null where it did not.")
    failure: Finding | None = Field(None, description="What stopped it.")
    warnings: Annotated[list[Finding], _List] = _list("What did not stop it.")
    checks: Annotated[list[CheckResult], _List] = _list("How each check ended.")
    mean_temperature: Finite = _number("Mean kinetic temperature of the second half, K.")
    ns_per_day: Finite = _number("Speed in ns per day.")
    bonds: dict[str, dict[str, Index]] | None = Field(
        None,
        description="How often each length of a bond was seen: by pair of elements and by number "
        "of the bin of 0.02 Å. Absent in a comparison.",
    )
    traces: Traces | None = Field(None, description="Absent in a comparison.")


class Outcome(Rate):
    """What MD with one model came to."""

    name: Text = _text("How the model is called.")
    verdict: Text = _text("Whether it can be trusted.", **_VERDICTS)
    reason: Text = _text("Why, in one line.")
    failed_replicas: Index = _number("Number of runs that failed, at all temperatures.")
    temperatures: Annotated[list[AtTemperature], _List] = _list("One entry a temperature.")
    replicas: Annotated[list[Replica], _List] = _list("Each run.")


class BondLengths(Part):
    """Distribution of the lengths of one kind of bond."""

    pair: Text = _text("Elements, such as 'C-H'.")
    edges: FiniteList = _list("Edges of the bins in Å, one more than there are bins.")
    md: FiniteList = _list("Probability density in MD, 1/Å.")
    training: FiniteList = _list("The same in the training data; null where not known.")


class FailingFrame(Part):
    """The frame at which the first failing run was stopped."""

    symbols: Annotated[list[Text], _List] = _list("Element of each atom.")
    positions: Annotated[list[FiniteList], _List] = _list("Cartesian coordinates in Å.")
    radii: FiniteList = _list("Covalent radius of each atom in Å.")
    bonds: Annotated[list[IndexList], _List] = _list("Pairs of bonded atoms, counted from 0.")
    marked: IndexList = _list("The atoms that the failing check is about.")
    check: Text = _text("Name of the check.")
    message: Text = _text("What it said.")
    time_ps: Finite = _number("When, in ps.")
    temperature: Finite = _number("Set temperature in K.")
    replica: Index = _number("In which run.")


class StabilityResults(Outcome):
    """The whole of `stability.json`, as `ase-ws stability --out` and `check_stability` write it."""

    schema_version: Annotated[int, BeforeValidator(lambda version: version or 1)] = Field(
        1, description="Raised whenever a key changes its meaning or goes."
    )
    meaning: Text = _text("What it means that a look before MD decided; empty where none did.")
    first_failure: Finding | None = Field(None, description="The earliest failure in time.")
    blame: Blame | None = Field(None, description="What is to blame; null without a failure.")
    failures: Annotated[list[Finding], _List] = _list("Before MD and of all runs.")
    warnings: Annotated[list[Finding], _List] = _list("Before MD and of all runs.")
    checks: Annotated[list[CheckResult], _List] = _list("Each check: the worst of all runs.")
    static: Annotated[list[StaticCheck], _List] = _list("Checks that need no MD.")
    comparison: Outcome | None = Field(
        None, description="A second model in the same runs (same seeds); its runs have no traces."
    )
    bond_lengths: Annotated[list[BondLengths], _List] = _list("One entry a kind of bond.")
    failing_frame: FailingFrame | None = Field(None, description="To draw the first failure.")
    calibration: Table | None = Field(
        None, description="The training set that limits come from: `source`, `n_frames`, ..."
    )
    settings: Table = Field(
        default_factory=dict,
        description="What was done: temperatures (K), ps, replicas, timestep (fs), ensemble, "
        "seed, formula, n_atoms, calculator, relaxation, ...; with a budget (minutes), left_out "
        "says in words what was not.",
    )
    provenance: Table = Field(
        default_factory=dict,
        description="Where it comes from: command, created, versions, model; the time that it "
        "took (wall_time_s, and of it before_md_s and md_s), and its estimate.",
    )


def read_stability(
    record: Mapping[str, Any], source: str = "stability results"
) -> StabilityResults:
    """Check a plain dictionary against the schema.

    Parameters
    ----------
    record : mapping
        As read from `stability.json`, of version 1 or 2.
    source : str
        What the error calls it: the name of the file.

    Returns
    -------
    StabilityResults
        The same with defaults where something is absent.

    Raises
    ------
    UserError
        If a field has the wrong type, or the file is of a newer schema than this package knows.
    """
    version = record.get("schema_version")
    if isinstance(version, int) and version > STABILITY_SCHEMA_VERSION:
        raise UserError(
            f"{source}: schema_version is {version}, expected at most "
            f"{STABILITY_SCHEMA_VERSION}; update ase-ws to read this file"
        )
    try:
        return StabilityResults.model_validate(dict(record))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{source}: field '{where}': {first['msg']}; write the file with "
            "`ase-ws stability --out DIR` (its schema: `ase-ws report --schema`)"
        ) from error
