"""What a report says of a check is what the check does: its definition is made of its numbers."""

import copy
import re

import pytest

from ase_ws.stability import ContactCheck, default_checks
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.static import default_static_checks

CHECKS = [*default_checks(), *default_static_checks()]


def fields(check):
    """Numbers of the template, with the part of it that writes them."""
    found = re.findall(r"\{(\w+)[^}]*\}", type(check).definition)
    return sorted({name for name in found if isinstance(getattr(check, name), int | float)})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_number_of_a_definition_is_the_checks_own(check):
    for name in fields(check):
        changed = copy.copy(check)
        setattr(changed, name, 0.123 + 2 * getattr(check, name))
        assert changed.defined() != check.defined(), name
        written = re.search(rf"\{{{name}([^}}]*)\}}", type(check).definition)[1]
        assert f"{{x{written}}}".format(x=getattr(changed, name)) in changed.defined()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_limits_are_named_in_the_definition(check):
    limits = {name for name in vars(check) if re.match("(?!_).*(warn|fail|limit|wall)", name)}
    if check.name == "rattle_ladder":
        limits.discard("wall_warn")  # of scans along a distance
    numbers = {name for name in limits if isinstance(getattr(check, name), int | float)}
    assert numbers <= set(fields(check))


def test_a_calibrated_check_does_not_contradict_itself():
    (check,) = (check for check in default_checks() if isinstance(check, ContactCheck))
    Calibration("set.xyz", 1, None, 0.5, {}).apply([check])
    assert f"fails below {check.fail_at:.3g}" in check.defined()
    assert f"warns below {check.warn_at:.3g}" in check.result().definition
