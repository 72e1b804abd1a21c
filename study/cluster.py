"""Checking a `cluster.yaml` for the Ray cluster launcher."""

from pathlib import Path

import yaml

from sdw_core.errors import InputError


def validate_cluster(path: Path) -> None:
    """Check a file with Ray's own validator, without a network.

    Ray's validator is private and looks not inside `node_config`: Ray's version is pinned, and a
    test checks the shipped file.

    Raises:
        InputError: the file is missing, no YAML, or not what the launcher takes.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no cluster file {str(path)!r}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = str(getattr(error, "problem", None) or getattr(error, "strerror", error))
        raise InputError(
            f"The cluster file {str(path)!r} is not readable YAML: {reason}."
        ) from None
    try:
        validate_config(prepare_config(document))
    except Exception as error:
        reason = str(getattr(error, "message", error)).splitlines()[0].rstrip(".")
        if isinstance(error, KeyError):
            reason = f"it has no key {reason}"
        raise InputError(
            f"The cluster file {str(path)!r} is not valid for the Ray cluster launcher: {reason}."
        ) from None
