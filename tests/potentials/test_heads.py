"""Models of several heads: every one of them right, and none taken that nobody named."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculatorSetupError
from ase.io import write
from upstream_models import build_upstream

from ase_ws import CommitteeCalculator, PotentialCalculator
from ase_ws.cli.inputs import attach
from ase_ws.errors import UserError
from ase_ws.potentials.files import (
    HeadError,
    HeadWarning,
    load_potential,
    read_header,
    save_potential,
)
from ase_ws.potentials.heads import choose_head
from ase_ws.potentials.mace.direct import DirectPotential
from ase_ws.potentials.mace.upstream import export_upstream
from ase_ws.stability.campaign.config import make_config
from ase_ws.stability.campaign.inputs import load_campaign
from ase_ws.testing import tiny_mace
from ase_ws.training import finetune

HEADS = ("pbe", "Default", "cc")
E0 = np.array([[-1.0, -2.0, -3.0], [-13.6, -1030.0, -2040.0], [-14.0, -1031.0, -2050.0]])
SHAPE = {"correlation": 1, "scale": (1.3, 0.7, 0.9), "shift": (0.1, -0.2, 0.3)}


@pytest.fixture(scope="module")
def several():
    return tiny_mace(heads=HEADS, e0=E0, head="cc", **SHAPE)


@pytest.fixture(scope="module")
def files(several, tmp_path_factory):
    """One model as this package and as upstream write it, and one without a default."""
    folder = tmp_path_factory.mktemp("heads")
    save_potential(several, folder / "own.safetensors")
    export_upstream(several, folder / "up.model")
    two = tiny_mace(
        heads=("cc", "dft"),
        e0=E0[1:],
        head="dft",
        scale=(1.0, 2.0),
        shift=(0.0, 0.1),
        num_interactions=1,
        correlation=1,
    )
    export_upstream(two, folder / "two.model")
    return folder


@pytest.fixture
def methanol():
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=1)
    return atoms


def energy(source, atoms, **options):
    atoms = atoms.copy()
    atoms.calc = PotentialCalculator(source, **options)
    return atoms.get_potential_energy()


# --- which ---------------------------------------------------------------------------------------


def test_upstreams_choice_or_an_error():
    assert choose_head(("x",), None) == 0
    assert choose_head(("a", "DEFAULT", "b"), None) == 1
    assert choose_head(("a", "b"), "b") == 1
    for heads, head in ((("a", "b"), None), (("a", "b"), "c"), (("default", "Default"), None)):
        with pytest.raises(HeadError, match=f"{heads[0]}.*{heads[1]}"):
            choose_head(heads, head)


def test_none_is_named(files, methanol):
    with pytest.warns(HeadWarning, match="'Default' is used, as upstream does"):
        found = energy(files / "up.model", methanol)
    assert found == pytest.approx(energy(files / "up.model", methanol, head="Default"), abs=1e-12)
    with pytest.raises(HeadError, match=r"two\.model.*name one of 'cc', 'dft'"):
        PotentialCalculator(files / "two.model")
    with pytest.raises(HeadError, match=r"no head 'nonsense'; its heads are 'cc', 'dft'"):
        PotentialCalculator(files / "two.model", head="nonsense")


def test_a_file_of_ours_names_its_head(files, methanol, several):
    assert load_potential(files / "own.safetensors").head == "cc"
    assert energy(files / "own.safetensors", methanol) == energy(several, methanol)


# --- every head ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_every_head_is_upstreams_through_every_file(upstream, files, tmp_path, methanol):
    """Read, saved, read again, exported, read again; by us and by upstream."""
    crystal = bulk("C", "diamond", a=3.6)
    crystal.rattle(0.05, seed=2)
    path, exported = files / "up.model", tmp_path / "again.model"
    own = save_potential(load_potential(path, head="pbe"), tmp_path / "own.safetensors")
    export_upstream(load_potential(own), exported)
    for head in HEADS:
        theirs, again = (
            upstream.calculators.MACECalculator(
                model_paths=str(p), device="cpu", default_dtype="float64", head=head
            )
            for p in (path, exported)
        )
        ours = [PotentialCalculator(p, head=head) for p in (path, own, exported)]
        for atoms in (methanol, crystal):
            expected, found = atoms.copy(), atoms.copy()
            expected.calc, found.calc = theirs, again
            assert found.get_potential_energy() == expected.get_potential_energy()
            for found.calc in ours:
                difference = found.get_potential_energy() - expected.get_potential_energy()
                assert abs(difference) < 1e-10
                np.testing.assert_allclose(found.get_forces(), expected.get_forces(), atol=1e-10)
                if atoms.pbc.all():
                    np.testing.assert_allclose(
                        found.get_stress(), expected.get_stress(), atol=1e-10
                    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("heads", [None, "Default", ("default",), "absent"])
def test_heads_as_old_files_have_them(upstream, small_mace, tmp_path, heads, methanol):
    path = export_upstream(small_mace, tmp_path / "m.model")
    model = torch.load(path, weights_only=False)
    if heads == "absent":
        del model.heads
    else:
        model.heads = heads
    torch.save(model, path)
    loaded = load_potential(path)
    assert len(loaded.heads) == 1
    assert energy(loaded, methanol) == energy(small_mace, methanol)


@pytest.mark.filterwarnings("ignore")
def test_elements_and_cutoff_as_the_first_versions_have_them(
    upstream, small_mace, tmp_path, methanol
):
    """Numbers of NumPy in a list, and no tensors; as in the public MACE_SPICE.model."""
    path = export_upstream(small_mace, tmp_path / "m.model")
    model = torch.load(path, weights_only=False)
    numbers, r_max = model.atomic_numbers.tolist(), float(model.r_max)
    del model.atomic_numbers, model.r_max, model.heads
    model.atomic_numbers, model.r_max = [np.int64(z) for z in numbers], r_max
    for block in model.interactions:
        block.avg_num_neighbors = np.float64(block.avg_num_neighbors)
    torch.save(model, path)
    assert energy(path, methanol) == energy(small_mace, methanol)
    model.atomic_numbers[0] = np.float16(1.0)
    torch.save(model, path)
    with pytest.raises(UserError, match="a number of kind f2"):
        load_potential(path)


@pytest.mark.filterwarnings("ignore")
def test_plain_mace_of_several_heads(upstream, tmp_path, methanol):
    """Without scale and shift; upstream's class of the first papers."""
    path = tmp_path / "plain.model"
    torch.save(build_upstream(upstream, plain=True, heads=list(HEADS), atomic_energies=E0), path)
    for head in HEADS:
        expected = methanol.copy()
        expected.calc = upstream.calculators.MACECalculator(
            model_paths=str(path), default_dtype="float64", head=head
        )
        assert energy(path, methanol, head=head) == pytest.approx(
            expected.get_potential_energy(), abs=1e-10
        )


def test_the_file_holds_every_row(files, several):
    header = read_header(files / "own.safetensors")
    assert header["format"] == 2
    assert header["head"] == "cc"
    for head, row in zip(HEADS, E0, strict=True):
        loaded = load_potential(files / "own.safetensors", head=head)
        assert loaded.e0.tolist() == row.tolist()
        assert torch.equal(loaded.reference_energies, several.reference_energies)


def test_one_head_is_written_as_ever(model_file):
    """Earlier versions read it."""
    from safetensors.torch import load_file

    assert read_header(model_file)["format"] == 1
    assert load_file(model_file)["e0"].shape == (3,)


def test_a_file_of_an_earlier_version_knows_one_head(several, files, tmp_path, methanol):
    from test_potentials import rewrite

    old = rewrite(
        files / "own.safetensors",
        tmp_path / "old.safetensors",
        lambda header: {**header, "format": 1},
        {"e0": torch.from_numpy(E0[2])},
    )
    loaded = load_potential(old)
    assert energy(loaded, methanol) == energy(several, methanol)
    with pytest.raises(UserError, match=r"head 'pbe' are not known, only those of \['cc'\]"):
        load_potential(old, head="pbe")
    with pytest.raises(UserError, match="only the reference energies of head 'cc' are known"):
        export_upstream(loaded, tmp_path / "new" / "out.model")
    assert not (tmp_path / "new").exists()
    again = load_potential(save_potential(loaded, tmp_path / "again.safetensors"))
    assert energy(again, methanol) == energy(several, methanol)


# --- in the process ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "move",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: copy.deepcopy(m).float().double(),
        lambda m: copy.deepcopy(m).to("cpu"),
    ],
)
def test_copies_keep_every_head(several, move):
    precise = copy.deepcopy(several)
    precise.reference_energies += 0.123456789012345
    moved = move(precise)
    assert moved.head == "cc"
    assert moved.reference_energies.dtype == torch.float64
    assert torch.equal(moved.reference_energies, precise.reference_energies)


def test_only_the_row_in_use_changes(several):
    potential = copy.deepcopy(several)
    potential.e0 += 1.0
    potential.e0.copy_(potential.e0 + 1.0)
    potential.e0 = potential.e0 + 1.0
    expected = E0 + np.array([[0.0], [0.0], [3.0]])
    np.testing.assert_array_equal(potential.reference_energies.numpy(), expected)


def test_rows_must_fit():
    for wrong in (E0[:2], E0[:, :2], E0[0, :2]):
        with pytest.raises(UserError, match="one for each head and element"):
            tiny_mace(heads=HEADS, e0=wrong, head="cc", **SHAPE)
    with pytest.raises(ValueError, match="one value for each of the 3 heads"):
        tiny_mace(heads=HEADS, e0=E0, head="cc")
    with pytest.raises(ValueError, match="distinct names"):
        tiny_mace(heads=("a", "a"), scale=(1.0, 1.0), shift=(0.0, 0.0))


@pytest.mark.parametrize("head", HEADS)
def test_lean_direct_and_stacked(files, head, to_graph, methanol):
    potential = load_potential(files / "own.safetensors", head=head)
    batch = to_graph(methanol, potential.r_max)
    direct = DirectPotential(potential)
    with torch.no_grad():
        expected = potential(batch, forces=True)
        fast = potential.lean()
        assert fast is not potential
        for found in (fast(batch, forces=True), fast.side_by_side([fast])(batch, forces=True)[0]):
            torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-10)
            torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)
        for form in (direct, direct.lean()):
            found = form(batch, forces=False).energy
            torch.testing.assert_close(found, expected.energy, rtol=0, atol=1e-10)


def test_a_direct_model_of_several_heads(files, tmp_path, methanol):
    direct = DirectPotential(load_potential(files / "own.safetensors", head="pbe"))
    direct.e0 += 1.0
    assert torch.equal(direct.body.reference_energies, direct.reference_energies)
    path = save_potential(direct.float(), tmp_path / "direct.safetensors")
    for head, row in zip(HEADS, E0 + np.array([[1.0], [0.0], [0.0]]), strict=True):
        loaded = load_potential(path, head=head)
        assert loaded.reference_energies is loaded.body.reference_energies
        assert loaded.e0.tolist() == row.tolist()
    assert load_potential(path).head == "pbe"


# --- calculators ---------------------------------------------------------------------------------


def test_calculators_take_heads(files, several, methanol):
    own, up = files / "own.safetensors", files / "up.model"
    alone = [energy(own, methanol, head=head) for head in HEADS]
    assert len({round(value) for value in alone}) == 3
    atoms = methanol.copy()
    atoms.calc = CommitteeCalculator([own, up, own], head=HEADS)
    assert atoms.get_potential_energy() == pytest.approx(np.mean(alone), abs=1e-9)
    atoms.calc = CommitteeCalculator([own, up], head="pbe")
    assert atoms.get_potential_energy() == pytest.approx(alone[0], abs=1e-10)
    assert energy(several, methanol, head="cc") == pytest.approx(alone[2], abs=1e-10)
    with pytest.raises(
        CalculatorSetupError, match="head 'pbe': this potential is there with its head 'cc'"
    ):
        PotentialCalculator(several, head="pbe")
    with pytest.raises(CalculatorSetupError, match="3 heads for 2 members"):
        CommitteeCalculator([own, up], head=HEADS)


# --- training ------------------------------------------------------------------------------------


def test_fine_tuning_one_head_keeps_the_others(files, frame_files, tmp_path, quick):
    config = quick(model={"head": "pbe"}, optimizer={"max_steps": 2, "valid_interval": 2})
    out = tmp_path / "out"
    finetune(frame_files / "train.xyz", model=files / "up.model", config=config, out=out)
    tuned = load_potential(out / "model.safetensors")
    assert tuned.head == "pbe"
    rows = tuned.reference_energies.numpy()
    assert np.abs(rows[0] - E0[0]).max() > 1.0
    np.testing.assert_array_equal(rows[1:], E0[1:])


# --- command line --------------------------------------------------------------------------------


def test_info_lists_them(cli, files):
    code, out, err = cli("info", files / "own.safetensors")
    assert (code, err) == (0, "")
    assert "pbe, Default, cc (in use)" in out
    assert "O -2050" in out
    assert "pbe, Default (in use), cc" in cli("info", files / "up.model")[1]
    code, out, err = cli("info", files / "two.model")
    assert (code, err) == (0, "")
    assert "cc, dft (none by default: name one with --head)" in out
    assert "E0" not in out
    assert "O -2040" in cli("info", files / "two.model", "--head", "cc")[1]
    code, out, _ = cli("info", files / "two.model", "--json")
    assert '"head": null' in out


def test_export_needs_none_and_keeps_all(cli, files, tmp_path):
    assert cli("export", files / "two.model", tmp_path / "out.model")[0] == 0
    for head in ("cc", "dft"):
        again = load_potential(tmp_path / "out.model", head=head)
        assert torch.equal(again.e0, load_potential(files / "two.model", head=head).e0)


@pytest.mark.parametrize("command", ["md", "stability"])
def test_one_line_where_none_is_named(cli, files, tmp_path, command):
    write(tmp_path / "a.xyz", molecule("CH3OH"))
    more = ["--out", tmp_path / "out"] if command == "md" else []
    for options in ([], ["--head", "nonsense"]):
        code, out, err = cli(command, files / "two.model", tmp_path / "a.xyz", *more, *options)
        assert (code, out) == (2, "")
        assert re.search(r"two\.model: .*'cc', 'dft'", err)
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_the_head_that_md_uses_is_said(cli, files, tmp_path):
    write(tmp_path / "a.xyz", molecule("CH3OH"))
    arguments = ["md", files / "up.model", tmp_path / "a.xyz", "--steps", "0", "--out"]
    for k, (options, used) in enumerate((([], "Default"), (["--head", "cc"], "cc"))):
        _, _, err = cli(*arguments, tmp_path / f"out{k}", *options)
        assert f"head '{used}' of pbe, Default, cc" in err
        assert "Warning" not in err


def test_attach_takes_the_head(files, tmp_path):
    write(tmp_path / "a.xyz", molecule("CH3OH"))
    _, calculator, _ = attach(files / "up.model", tmp_path / "a.xyz", None, None, "pbe", quiet=True)
    assert calculator.potential.head == "pbe"


def test_campaigns_name_heads(files, tmp_path):
    write(tmp_path / "a.xyz", molecule("CH3OH"))
    tree = {
        "models": {"one": str(files / "two.model"), "other": str(files / "two.model")},
        "structures": {"a": str(tmp_path / "a.xyz")},
        "temperatures": [300],
        "ps": 0.1,
    }
    campaign = load_campaign(make_config({**tree, "heads": {"one": "cc", "other": "dft"}}))
    heads = [campaign.pairs[name, "a"].calculator().potential.head for name in ("one", "other")]
    assert heads == ["cc", "dft"]
    swapped = load_campaign(make_config({**tree, "heads": {"one": "dft", "other": "cc"}}))
    assert swapped.identity != campaign.identity
    with pytest.raises(HeadError, match="'cc', 'dft'"):
        load_campaign(make_config(tree))
    with pytest.raises(UserError, match="'third' is none of the models"):
        make_config({**tree, "heads": {"third": "cc"}})
