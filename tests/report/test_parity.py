"""The picture of `ase-ws evaluate --plot`."""

import warnings

import numpy as np
import pytest

from ase_ws.report.drawing.parity import MANY_POINTS
from ase_ws.report.parity import MOST_GROUPS, Quantity, parity_figure, write_parity


def quantity(n, groups=("",), offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=n)
    group = np.array([groups[k % len(groups)] for k in range(n)])
    return Quantity(
        "Forces", "force", "eV/Å", reference, reference + offset + rng.normal(0, 0.1, n), group
    )


def text_of(figure):
    return [t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_errors_stand_above_their_panel():
    errors = np.array([1.0, 1.0, -1.0, -3.0])
    energies = Quantity("Energies", "energy", "eV/atom", np.zeros(4), errors, np.repeat("", 4))
    figure = parity_figure([energies, quantity(50), quantity(0)])
    assert len(figure.axes) == 4
    assert "Energies\nRMSE 1732, MAE 1500 meV/atom" in text_of(figure)
    assert not figure.legends


def test_many_points_are_drawn_as_their_density():
    few, many = (parity_figure([quantity(n)]).axes[0] for n in (MANY_POINTS, MANY_POINTS + 1))
    kinds = [type(axes.collections[0]).__name__ for axes in (few, many)]
    assert kinds == ["PathCollection", "PolyCollection"]


def test_groups_have_a_colour_each_and_the_smallest_share_one():
    figure = parity_figure([quantity(30, ("a", "b"))])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    names = [f"type {k}" for k in range(MOST_GROUPS + 3)]
    figure = parity_figure([quantity(90, names)])
    shown = [t.get_text() for t in figure.legends[0].get_texts()]
    assert len(shown) == MOST_GROUPS
    assert shown[-1] == "others"
    drawn = [len(cloud.get_offsets()) for cloud in figure.axes[0].collections]
    assert sum(drawn) == 90
    assert drawn == sorted(drawn, reverse=True)


@pytest.mark.parametrize("n", [40, MANY_POINTS + 1])
def test_wild_predictions_do_not_flatten_the_others(tmp_path, n):
    wild = quantity(n, offset=1e6)
    figure = parity_figure([wild])
    assert figure.axes[0].get_xlim()[1] < 20
    assert any(f"{n} of {n} points outside" in text for text in text_of(figure))
    write_parity(tmp_path / "a.png", [wild])


def test_a_few_wild_points_stand_at_the_end_of_the_errors(tmp_path):
    many = quantity(1000, ("a",))
    few = quantity(2, ("b",), offset=1e6)
    columns = zip(
        (many.reference, many.predicted, many.group),
        (few.reference, few.predicted, few.group),
        strict=True,
    )
    both = Quantity("Forces", "force", "eV/Å", *map(np.concatenate, columns))
    assert parity_figure([both]).axes[1].get_xlim()[1] < 1000
    write_parity(tmp_path / "a.png", [both])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_names_of_any_kind(tmp_path, suffix):
    names = ("", "_hidden", "$\\frac{1}$", "漢字 <b>", "x" * 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_parity(tmp_path / f"a.b.{suffix}", [quantity(20, names), quantity(1, names)])
    assert [path.name for path in tmp_path.iterdir()] == [f"a.b.{suffix}"]


def test_a_perfect_model(tmp_path):
    zeros = Quantity("Forces", "force", "eV/Å", np.zeros(3), np.zeros(3), np.array(["a", "b", "b"]))
    write_parity(tmp_path / "a.png", [zeros])
