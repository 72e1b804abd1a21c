"""Checking a `cluster.yaml` for the Ray cluster launcher."""

from pathlib import Path

from sdw_core.errors import InputError, first_line
from sdw_core.validation import shown
from search_spaces.documents import StrictLoader, read_yaml


def validate_cluster(path: Path) -> None:
    """Check a file with Ray's own validator, without a network.

    Ray's validator is private and looks not inside `node_config`: Ray's version is pinned, and a
    test checks the shipped file.

    Raises:
        InputError: the file is missing, no YAML, or not what the launcher takes.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    what = f"The cluster file {str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"There is no cluster file {str(path)!r}.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{what} must be UTF-8 text, and cannot be read ({error}).") from None
    document = read_yaml(text, what, StrictLoader)
    if not isinstance(document, dict):
        raise InputError(
            f"{what} must hold a mapping, not {shown(document)}; write one for the Ray cluster "
            "launcher, as the project's own cluster.yaml is."
        )
    try:
        validate_config(prepare_config(document))
    except Exception as error:
        reason = first_line(error).rstrip(".") or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"it has no key {reason}"
        raise InputError(f"{what} is not valid for the Ray cluster launcher: {reason}.") from None
