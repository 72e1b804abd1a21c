"""How every figure looks: the colours of what is shown, which colour-blind readers tell apart too.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/) without yellow, which is
too pale for a line on white, and with a grey and the ink of texts (on a dark page: that page's). A
method has its own colour in every figure, and what follows a comma in its name is a variant of it:
the same colour with another hatch, marker and dash. No figure library is needed here;
`sdw_core.plots` draws with matplotlib.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, GREY, INK = "#e69f00", "#56b4e9", "#666666", "#2f3b4c"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY, INK)
"""In the order in which names without a colour of their own take them."""
PALE = "#b8c4d0"
"""What lies behind: the states of the source, a grid."""

SOURCE, SYNTHETIC, RANDOM, EXPERT = PALE, VERMILION, GREY, INK
"""The source's states; the rows and the policies of them; random rows; the expert."""
METHODS = {
    "random": GREY,
    "k-means": GREY,
    "best episodes": GREY,
    "SDR": GREY,
    "DBC": PURPLE,
    "PBC": SKY,
    "Av-PBC": BLUE,
    "SDW": GREEN,
    "SDW-OBD": VERMILION,
    "BC on all data": ORANGE,
    "expert": INK,
    "these rows": VERMILION,
    "random rows": GREY,
    "the expert": INK,
}
"""The colours of the methods of the shipped comparisons, and of what an export is judged beside."""

HATCHES = ("", "/", ".", "x", "\\", "+", "-", "|")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
LINES = ("solid", "dashed", "dotted", "dashdot")
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Look:
    """How one name is drawn.

    Attributes:
        colour: `#rrggbb`.
        variant: which one of those of its colour, from 0.
    """

    colour: str
    variant: int

    @property
    def hatch(self) -> str:
        """Of a bar, as matplotlib and plotly both name it."""
        return HATCHES[self.variant % len(HATCHES)]

    @property
    def marker(self) -> str:
        """Of a point, as matplotlib names it."""
        return MARKERS[self.variant % len(MARKERS)]

    @property
    def symbol(self) -> str:
        """Of a point, as plotly names it."""
        return SYMBOLS[self.variant % len(SYMBOLS)]

    @property
    def line(self) -> str:
        """Of a line, as matplotlib names it."""
        return LINES[self.variant % len(LINES)]

    @property
    def dash(self) -> str:
        """Of a line, as plotly names it."""
        return DASHES[self.variant % len(DASHES)]


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, all of them different for up to 64 names without a comma.

    A method of `METHODS` and its variants have its colour; every other name, with its variants, the
    colour that the fewest have.

    >>> found = looks(["mine", "SDW-OBD", "SDW-OBD, 256 rows", "yours"])
    >>> [(look.colour, look.hatch) for look in found.values()]
    [('#0072b2', ''), ('#d55e00', ''), ('#d55e00', '/'), ('#009e73', '')]
    """
    families = {name: name.split(",")[0] for name in names}
    colours = {family: METHODS[family] for family in families.values() if family in METHODS}
    taken = Counter(colours.values())
    for family in families.values():
        if family not in colours:
            colours[family] = min(COLOURS, key=lambda colour: taken[colour])
            taken[colours[family]] += 1
    variants: Counter[str] = Counter()
    found = {}
    for name, family in families.items():
        colour = colours[family]
        found[name] = Look(colour, variants[colour])
        variants[colour] += 1
    return found


def apart(
    places: Iterable[float], gap: float, within: tuple[float, float] = (-inf, inf)
) -> list[float]:
    """The places moved as little as labels need that are to lie `gap` apart, in their own order.

    Args:
        places: of the labels.
        gap: the least distance of two labels; their number times this has room in `within`.
        within: the lowest and the highest place.

    >>> apart([5.0, 1.0, 1.5], 1.0)
    [5.0, 0.75, 1.75]
    """
    places = list(places)
    order = sorted(range(len(places)), key=places.__getitem__)
    groups: list[tuple[float, int]] = []  # centre and size of those that touch, from below
    for index in order:
        groups.append(_held(places[index], 1, gap, within))
        while len(groups) > 1:
            (low, few), (high, more) = groups[-2:]
            if high - low >= gap * (few + more) / 2:
                break
            centre = (low * few + high * more) / (few + more)
            groups[-2:] = [_held(centre, few + more, gap, within)]
    moved = [centre + gap * (k - (size - 1) / 2) for centre, size in groups for k in range(size)]
    return [place for _, place in sorted(zip(order, moved, strict=True))]


def _held(centre: float, size: int, gap: float, within: tuple[float, float]) -> tuple[float, int]:
    """A group of labels, its centre moved so that all of the group lies within."""
    half = gap * (size - 1) / 2
    return max(within[0] + half, min(within[1] - half, centre)), size
