"""Names and numbers in sentences, tables and figures, and of the films of exported rows."""

FILM, POSTER, GIF = "film.mp4", "film.png", "film.gif"
"""A film of the rows' policies, its still and its short form: an export has all three or none."""

ROWS = {
    "normalized_return": "synthetic rows",
    "synthetic": "synthetic rows",
    "synthetic_ensemble": "synthetic rows",
    "confirmed": "the exported rows, fresh seeds",
    "confirmed_ensemble": "the exported rows, fresh seeds",
    "random_subset": "random rows, as many",
    "random_subset_ensemble": "random rows, as many",
    "bc_all_data": "BC on all data",
    "expert": "expert",
}
"""What a summary of returns is of, by its key in a document, in the order shown."""


def label(name: str) -> str:
    r"""A name that matplotlib shows as it is: no mathematics, and not left out of a legend.

    >>> label("_a$b$")
    ' _a\\$b\\$'
    """
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if name.startswith("_") else escaped


def in_words(name: str, between: str = " ") -> str:
    """A metric's or a setting's name, as text spells it.

    >>> in_words("normalized_return")
    'normalised return'
    """
    return name.replace("normalized", "normalised").replace("_", between)


def counted(count: int, what: str) -> str:
    """So many of something.

    >>> counted(1, "trial"), counted(49_756, "transition")
    ('1 trial', '49,756 transitions')
    """
    return f"{count:,} {what}" + "s" * (count != 1)


def shrunk(points: float) -> str:
    """How the score of rows on fresh seeds differs from that by which a search chose them.

    >>> shrunk(3.14), shrunk(-0.5)
    ('3.1 points less than in the search', '0.5 points more than in the search')
    """
    return f"{abs(points):.1f} points {'less' if points >= 0 else 'more'} than in the search"


def processors(cpu: float, gpu: float | None) -> str:
    """Processors of a node or a trial; GPUs are left out where they are None.

    >>> processors(1, None), processors(8, 0.25)
    ('1 CPU', '8 CPU and 0.25 GPU')
    """
    return f"{cpu:g} CPU" if gpu is None else f"{cpu:g} CPU and {gpu:g} GPU"


def named(name: str, *networks: int) -> str:
    """The name of a score, which says so where its policies are ensembles of several networks.

    >>> named("these rows", 1), named("these rows", 10), named("ours, ensembles of 10", 10)
    ('these rows', 'these rows, ensembles of 10', 'ours, ensembles of 10')
    >>> named("ours", 10, 1, 10)
    'ours, ensembles of 1 or 10'
    """
    kinds = sorted({*networks})
    said = f"ensembles of {' or '.join(map(str, kinds))}"
    return name if kinds in ([], [1]) or said in name else f"{name}, {said}"


def short_name(dataset: str) -> str:
    """The last part of a dataset's name.

    >>> short_name("sdw/hopper-medium-v0")
    'hopper-medium-v0'
    """
    return dataset.rsplit("/", 1)[-1]
