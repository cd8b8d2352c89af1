"""One schema: what the suite writes, what it reads back, and what the documentation names."""

import json
from pathlib import Path

import pytest
from toys import NaNSprings, Springs, ethanol

from ase_ws.results.rates import survival_curve
from ase_ws.results.report import SCHEMA_VERSION, StabilityReport, read_stability
from ase_ws.stability import check_stability

OLD = Path(__file__).parents[1] / "data" / "results"

#: Tables whose keys are whatever a run had to say.
OPEN = {"settings", "provenance", "calibration", "bonds"}


@pytest.fixture(scope="module", params=["failing", "stable"])
def report(request):
    """Real reports: with static curves, reruns, a failing frame, a second model."""
    if request.param == "failing":
        return check_stability(
            ethanol(), NaNSprings(ethanol()), temperature=[300, 500], ps=0.3, replicas=2,
            compare=Springs(ethanol()),
        )  # fmt: skip
    return check_stability(ethanol(), Springs(ethanol()), temperature=300, ps=0.3, min_ps=0.1)


def unknown(record, schema, definitions, path=""):
    """Give the keys of a record that its schema does not name."""
    while "$ref" in schema or "anyOf" in schema:
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
        else:
            kind = "array" if isinstance(record, list) else "object"
            options = [definitions[o["$ref"].rpartition("/")[2]] if "$ref" in o else o
                       for o in schema["anyOf"]]  # fmt: skip
            schema = next((o for o in options if o.get("type") == kind), {})
    if isinstance(record, dict):
        for key, value in record.items():
            if path.rpartition(".")[2] in OPEN:
                return
            if key not in schema.get("properties", {}):
                yield f"{path}.{key}"
            else:
                yield from unknown(value, schema["properties"][key], definitions, f"{path}.{key}")
    elif isinstance(record, list):
        for item in record:
            yield from unknown(item, schema.get("items", {}), definitions, path)


def test_every_key_that_is_written_is_in_the_schema(report):
    schema = StabilityReport.schema()
    record = report.to_dict()
    assert list(unknown(record, schema, schema["$defs"])) == []
    # The walk finds what is not there.
    record["replicas"][0]["checks"][0]["odd"] = 1
    assert list(unknown(record, schema, schema["$defs"])) == [".replicas.checks.odd"]


def test_every_field_of_the_schema_is_written(report):
    assert set(StabilityReport.schema()["properties"]) == set(report.to_dict())


def test_a_report_comes_back_as_it_was(report):
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    back = read_stability(record)
    assert back.to_dict() == record
    assert back.summary() == report.summary()


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_the_versions_before_are_read(version):
    """Written by the code of their time; what follows from the runs is computed anew."""
    record = json.loads((OLD / f"stability_{version}.json").read_text())
    assert record["schema_version"] == version <= SCHEMA_VERSION
    report = read_stability(record)
    for key in ("verdict", "reason", "total_ps", "failed_replicas", "failure_rate_per_ps"):
        assert getattr(report, key) == record[key], key
    assert [row.temperature for row in report.temperatures] == [
        row["temperature"] for row in record["temperatures"]
    ]
    assert report.first_failure.message == record["failures"][0]["message"]
    assert [check.name for check in report.checks] == [check["name"] for check in record["checks"]]
    again = report.to_dict()
    for old, new in zip(record["replicas"], again["replicas"], strict=True):
        assert {key: new[key] for key in old} == old


def test_the_band_of_the_survival_counts_whose_fate_is_known():
    """Wilson for S n of n: of four runs one ended early, so at the failure three are known."""
    curve = survival_curve([0.5, 1.0, 2.0, 2.0], [False, True, False, False])
    assert curve.time_ps == [0.0, 1.0, 2.0]
    assert curve.fraction == pytest.approx([1.0, 2 / 3, 2 / 3])
    z = 1.959964
    n, share = 3, 2 / 3
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    assert curve.low[1] == pytest.approx(centre - half, abs=1e-6)
    assert curve.high[1] == pytest.approx(centre + half, abs=1e-6)
    # With nobody lost early it is Wilson's interval of all.
    assert survival_curve([1.0, 2.0], [True, False]).low[1] == pytest.approx(0.0945, abs=1e-4)
