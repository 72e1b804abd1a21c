"""Names in figures."""


def label(name: str) -> str:
    r"""A name that matplotlib shows as it is: no mathematics, and not left out of a legend.

    >>> label("_a$b$")
    ' _a\\$b\\$'
    """
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if name.startswith("_") else escaped
