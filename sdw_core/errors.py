"""The errors of the project: each is one sentence, the rule, the value and the way out."""


class SDWError(Exception):
    """The work failed; the command line prints the sentence and exits with `exit_code`."""

    exit_code = 1


class InputError(SDWError):
    """The input was wrong: nothing was started, nothing was written."""

    exit_code = 2


class SourceChanged(InputError):
    """A dataset, a checkpoint or the method is not what earlier runs were made of."""


class DivergenceError(SDWError):
    """A loss, gradient or parameter became non-finite."""


class StopRequested(SDWError):
    """The run was asked to stop; its checkpoint is written and a later run goes on from there."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error; empty if the error has no text."""
    return (str(error).strip().splitlines() or [""])[0]


def described(error: BaseException) -> str:
    """Another library's error in a few words: its type and its first line."""
    line = first_line(error).rstrip(".")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
