"""What a job of `sdw submit` does on the head: `python -m study.submitted` in the job's folder.

It brings the spec, and the files that the spec names, under the storage, where every node sees
them, and does there what `sdw launch` or `sdw resume` does.
"""

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

from sdw_core import __version__
from sdw_core.errors import InputError
from sdw_core.files import created_folder, read_json
from study.cli.app import app, main
from study.console import log
from study.folder import BROUGHT, StudyFolder
from study.submit import FILES, ORDER, RUNS, SPEC


def run() -> None:
    """Run the study that this process's folder asks for.

    Raises:
        InputError: the head has another version, no storage is named, or the study is there
            already, or is not there to be resumed.
        SDWError: as for `Study.launch`.
    """
    order: dict[str, Any] = read_json(Path(ORDER))
    if order["version"] != __version__:
        raise InputError(
            f"The head has sdw-obd {__version__}, and {order['version']} submitted the study; "
            "install one of the two on both."
        )
    storage = _storage(order["storage"])
    os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)  # nodes need nothing of the job's folder
    if order["resume"]:
        folder = StudyFolder.find(order["study"], storage)
        brought = storage / BROUGHT / folder.name
        with suppress(FileNotFoundError):  # a study that was launched on the head
            os.chdir(brought)
        _announced(folder)
        app(["resume", str(folder.path), "--address", "auto"], standalone_mode=False)
        return
    folder = StudyFolder(storage / order["study"])
    if folder.path.exists():
        raise InputError(
            f"{str(folder.path)!r} exists on the cluster; if it is a study, go on with it with "
            f"`sdw submit {folder.name} --resume`, or choose another `name`."
        )
    brought = storage / BROUGHT / folder.name
    shutil.rmtree(brought, ignore_errors=True)  # of a study that is there no more
    try:
        with created_folder(brought) as scratch:
            shutil.copytree(FILES, scratch, dirs_exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The storage {str(storage)!r} cannot be written on the head ({error.strerror}); "
            "choose another `storage`."
        ) from None
    os.chdir(brought)
    _announced(folder)
    try:
        given = "--storage", str(storage), "--address", "auto"
        app(["launch", SPEC, *given], standalone_mode=False)
    finally:
        if not folder.path.exists():  # it was refused
            shutil.rmtree(brought)
            with suppress(OSError):
                brought.parent.rmdir()


def _storage(named: str | None) -> Path:
    storage = named or os.environ.get("SDW_STORAGE")
    if not storage:
        raise InputError(
            "A study's folder lies on a file system that all nodes of the cluster share, and the "
            "head does not say where: give that folder as `storage`, or set SDW_STORAGE where the "
            "head's Ray is started."
        )
    return Path(storage).resolve()


def _announced(folder: StudyFolder) -> None:
    """Say when this process runs a study: once its trials begin."""

    def wait() -> None:
        while True:
            driver = folder.driver()
            if driver.get("pid") == os.getpid() and driver.get("begun"):
                log.print(f"{RUNS}{folder.path}")
                return
            sleep(0.5)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main(run)
