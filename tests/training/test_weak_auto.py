"""`--weak auto`: the rule, and what the user is told."""

import itertools

import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ase_ws.errors import UserError
from ase_ws.training import FinetuneConfig, finetune
from ase_ws.training.auto import choose_weak
from ase_ws.training.config_files import load_config


@pytest.mark.parametrize("base", [None, "b"])
@pytest.mark.parametrize("has_forces", [True, False])
def test_conservative_models_go_without(base, has_forces):
    """What never paid is not done: the run is the supervised one, setting for setting."""
    given = {"model": {"base": base}}
    auto = FinetuneConfig(**given, weak={"kind": "auto"}).resolved(has_forces=has_forces)
    assert auto == FinetuneConfig(**given).resolved(has_forces=has_forces)


def test_direct_forces_take_the_gradient():
    weak = (
        FinetuneConfig(weak={"kind": "auto"}).resolved(has_forces=True, conservative=False)
    ).weak
    assert (weak.kind, weak.reference) == ("gradient", "none")
    assert (weak.gradient_weight, weak.at_labels) == (0.6, 0.75)
    assert weak.pitc_weight == weak.pisc_weight == 0


@pytest.mark.parametrize(("n", "weight"), [(0, 0.6), (99, 0.6), (100, 0.3), (950, 0.3)])
def test_many_labelled_forces_take_half_the_weight(n, weight):
    config = FinetuneConfig(weak={"kind": "auto"})
    found = config.resolved(has_forces=True, n_with_forces=n, conservative=False)
    assert found.weak.gradient_weight == weight


def test_without_labelled_forces_nothing_is_taken_at_labels():
    config = FinetuneConfig(weak={"kind": "gradient"})
    assert config.resolved(has_forces=False, conservative=False).weak.at_labels == 0


def test_the_gradient_is_for_direct_forces_only():
    for weak in ({"kind": "gradient"}, {"gradient_weight": 1.0}):
        with pytest.raises(UserError, match="--forces direct"):
            FinetuneConfig(weak=weak).resolved(has_forces=True)


def test_settings_of_ones_own_stay():
    config = FinetuneConfig(weak={"kind": "auto", "gradient_weight": 7.0})
    assert config.resolved(has_forces=True, conservative=False).weak.gradient_weight == 7.0


KINDS = ("none", "pitc", "both", "gradient", "auto")


@pytest.mark.parametrize(("then", "now"), itertools.permutations(KINDS, 2))
def test_what_a_run_wrote_of_one_kind_is_not_taken_for_another(tmp_path, then, now):
    """`--config run/config.yaml --weak KIND` is KIND as shipped."""

    def resolved(config):
        return config.resolved(has_forces=True, conservative=False)

    resolved(FinetuneConfig(weak={"kind": then})).write(tmp_path / "config.yaml")
    found = load_config(tmp_path / "config.yaml", options={"weak.kind": now})
    assert resolved(found).weak == resolved(FinetuneConfig(weak={"kind": now})).weak


def test_strengths_of_ones_own_go_with_kinds_that_mean_the_same(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("weak: {kind: pitc, pitc_weight: 5.0, epsilon: 0.1, pisc_weight: 0.0}")
    weak = load_config(path, options={"weak.kind": "both"}).weak
    assert (weak.pitc_weight, weak.epsilon, weak.pisc_weight) == (5.0, 0.1, None)


@pytest.mark.parametrize(
    ("weak", "words"),
    [
        ({"kind": "gradient", "pitc_weight": 7.0}, "counts with --weak pitc or both"),
        ({"kind": "none", "pisc_weight": 7.0}, "counts with --weak pisc or both"),
        ({"kind": "gradient", "reference": "base"}, "is for pitc and pisc"),
        ({"kind": "both", "at_labels": 0.5}, "at_labels is a part of --weak gradient"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(weak, words):
    config = FinetuneConfig(weak=weak, model={"base": "b"})
    with pytest.raises(UserError, match=words):
        config.resolved(has_forces=True, conservative=False)


def test_the_gradient_alone_has_its_own_displacements():
    for weak in ({"kind": "gradient"}, {"gradient_weight": 1.0}):
        config = FinetuneConfig(weak=weak).resolved(has_forces=True, conservative=False)
        assert config.weak.epsilon == 0.03


def labelled(n):
    frames = []
    for k in range(n):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=k)
        forces = 0.1 * (atoms.positions - atoms.positions.mean(0))
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - 0.01 * k, forces=forces)
        frames.append(atoms)
    return frames


def test_what_was_not_measured_is_said():
    """A direct base model tuned on energies alone."""
    choice = choose_weak(conservative=False, has_forces=False)
    assert choice.kind == "gradient"
    assert "not measured" in choice.why


@pytest.mark.parametrize(
    ("forces", "word"), [("direct", "direct forces against"), ("conservative", "no weak losses")]
)
def test_it_says_what_it_picked(tmp_path, forces, word):
    said = []
    config = {
        "model": {"forces": forces, "hidden_irreps": "4x0e+4x1o", "r_max": 3.0},
        "weak": {"kind": "auto"},
        "optimizer": {"max_steps": 1},
    }
    frames = labelled(4)
    finetune(frames[:2], frames[2:], config=config, out=tmp_path / "run", announce=said.append)
    assert word in next(line for line in said if line.startswith("--weak auto: "))
    assert ("(ε 0.03 Å, weight 0.6; 75% of the labelled" in " ".join(said)) == (forces == "direct")
