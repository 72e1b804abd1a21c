"""The style of figures: colours that everybody tells apart, looks that differ, labels that do."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from sdw_core.style import COLOURS, METHODS, apart, looks
from search_spaces import load_comparison, shipped_comparisons

SIGHTS = {
    "all colours": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Linear RGB as it is seen: Machado, Oliveira and Fernandes, 2009, at full severity."""
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
       [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip


def seen(colour: str, sight: str) -> NDArray[np.float64]:
    """CIE L*a*b* of `#rrggbb`."""
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    visible = np.clip(np.array(SIGHTS[sight]) @ linear, 0, 1)
    relative = np.array(XYZ) @ visible / [0.95047, 1, 1.08883]
    x, y, z = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
def test_every_two_colours_are_told_apart(sight: str) -> None:
    """By 15 units of L*a*b*, where neighbours that are hard to tell apart differ by 2 or 3."""
    for one, other in combinations(COLOURS, 2):
        assert np.linalg.norm(seen(one, sight) - seen(other, sight)) > 15, (one, other)


@pytest.mark.parametrize("name", shipped_comparisons())
def test_each_method_of_a_shipped_comparison_has_its_colour_and_a_look_of_its_own(
    name: str,
) -> None:
    methods = list(load_comparison(name).methods)
    found = looks(methods)
    assert list(found) == methods
    assert len(set(found.values())) == len(methods)
    assert {family: METHODS[family] for family in {m.split(",")[0] for m in methods}} == {
        method.split(",")[0]: look.colour for method, look in found.items()
    }


def test_looks_differ_however_many_there_are_and_leave_the_known_colours_to_their_methods() -> None:
    names = [f"method {k}" for k in range(40)]
    found = looks([*names, "SDW-OBD", "expert"])
    assert len(set(found.values())) == len({(v.colour, v.hatch) for v in found.values()}) == 42
    few = looks([*names[:6], "SDW-OBD", "expert"])
    assert {few[name].colour for name in names[:6]} == {*COLOURS} - {
        METHODS["SDW-OBD"],
        METHODS["expert"],
    }


def test_labels_that_would_touch_are_moved_apart_and_no_others() -> None:
    places = [0.0, 10.0, 10.1, 10.2, 30.0]
    moved = apart(places, 2.0)
    assert moved[0] == 0.0
    assert moved[4] == 30.0
    assert np.diff(moved).min() == pytest.approx(2.0)
    assert np.mean(moved[1:4]) == pytest.approx(np.mean(places[1:4]))
    assert apart([], 1.0) == []
    assert apart([0.0, 0.0, 9.9], 1.0, (0.0, 10.0)) == pytest.approx([0.0, 1.0, 9.9])
    assert apart([9.9, 10.0, 8.8], 1.0, (0.0, 10.0)) == pytest.approx([9.0, 10.0, 8.0])
