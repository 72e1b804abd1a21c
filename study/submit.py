"""`sdw submit`: a study from outside of a cluster, as a job of Ray on its head.

What is submitted is a folder: what `study.submitted` is to do on the head, the spec, and the data
files, checkpoints and modules of the user's own that the spec names. It goes to the job server of
the head over HTTP, with the cluster's token where one is asked for. From then on the study needs
nothing of the machine that submitted it.
"""

import asyncio
import json
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from secrets import token_hex
from shlex import quote
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import yaml

from sdw_core import __version__
from sdw_core.dataset.loading import folder_of, folder_of_id, split_reference
from sdw_core.errors import InputError, SDWError, first_line
from sdw_core.files import write_json
from sdw_core.registry import module_files, require_parts
from sdw_core.validation import shown
from search_spaces import StudySpec, with_files
from study.address import GIVE_TOKEN, REACH

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ORDER, SPEC = "job.json", "spec.yaml"
"""What is asked of a job, in its folder, and the study's spec, in what it brings."""
FILES = "brought"
"""The folder of what a job brings, within the job's."""
RUNS = "the study runs in "
"""Begins the line that a job says once its study is accepted, and trials begin."""
MOST = 90_000_000
"""Bytes that a job may bring: job servers take 100 MiB."""
STOPPING = "120"
"""Seconds that a job has to stop in order, before Ray kills it."""
LOST = 600.0
"""Seconds to try to reach a job server again that does not answer any more."""
PAUSE = 3.0
"""Seconds between two tries."""
QUIET = (
    *("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"),
    "_private.runtime_env.packaging",
)
"""Modules of Ray that would say what they send."""
BEGUN = "sdw: job "
"""Begins the first line of ours in a job's log: those before it are Ray's."""
SCRIPT = f"""\
# The Python of the Ray that runs here, by the PATH that it was started with.
echo "{BEGUN}$1 on $(hostname)"
for python in python python3; do
    "$python" -P -c 'import study.submitted' 2>/dev/null && exec "$python" -P -m study.submitted
done
echo "sdw: The head $(hostname) has no sdw-obd {__version__} for the \\`python\\` on the PATH that\
 its Ray was started with; install it there, or start Ray within its environment."
exit 2
"""
"""How a job begins: `sh job.sh ID`."""


@dataclass(frozen=True)
class Submission:
    """A study's job on a cluster.

    Attributes:
        address: of the job server.
        job: the job's name.
        study: the study's name.
        storage: the folder of studies on the cluster; None: the head's SDW_STORAGE.
        token: whether the cluster asks for one.
    """

    address: str
    job: str
    study: str
    storage: str | None
    token: bool
    _client: "JobSubmissionClient" = field(repr=False)

    @property
    def state(self) -> str:
        """As Ray calls it: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return str(self._client.get_job_info(self.job).status)

    def to_json(self) -> dict[str, Any]:
        """What `sdw submit --json` prints."""
        said = {key: getattr(self, key) for key in ("job", "address", "study", "storage")}
        return said | {"state": self.state}

    @property
    def next_commands(self) -> list[tuple[str, str]]:
        """How to look at the study, to stop it and to go on, from where it was submitted."""
        mode = "RAY_AUTH_MODE=token " if self.token else ""
        where = f"--address {quote(self.address)}"
        named = f" --storage {quote(self.storage)}" if self.storage else ""
        return [
            ("its log", f"{mode}ray job logs --follow {where} {self.job}"),
            ("look", f"{mode}ray job submit {where} -- sdw status {self.study}{named}"),
            ("stop", f"{mode}ray job stop {where} {self.job}"),
            ("go on after that", f"sdw submit {self.study} --resume {where}{named}"),
        ]

    def lines(self, until_begun: bool = False) -> Iterator[str]:
        """What the job says, line by line, until it ends.

        Args:
            until_begun: end once the study is accepted and its trials begin, too.

        Raises:
            SDWError: the job server does not answer any more.
        """
        ours, rest = False, ""
        for text in self._texts():
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                ours = ours or line.startswith(f"{BEGUN}{self.job} ")
                if ours:
                    yield line
                if until_begun and line.startswith(RUNS):
                    return

    def _texts(self) -> Iterator[str]:
        """The job's log, piece by piece; a connection that is lost is made again."""
        heard, answered = 0, monotonic()
        with asyncio.Runner() as runner:
            while True:
                passed, tail = 0, self._client.tail_job_logs(self.job)
                try:
                    while (text := runner.run(_next(tail))) is not None:
                        answered = monotonic()
                        if passed + len(text) > heard:  # each tail begins at the log's beginning
                            yield text[max(0, heard - passed) :]
                        passed += len(text)
                        heard = max(heard, passed)
                    if self._client.get_job_info(self.job).status.is_terminal():
                        return
                except (OSError, RuntimeError) as error:  # those of requests and of aiohttp
                    if monotonic() - answered > LOST:
                        raise SDWError(
                            f"The job server at {self.address} has not answered for {LOST:.0f} s "
                            f"({first_line(error)}); the study goes on if its cluster does: look "
                            f"with `{self.next_commands[1][1]}`."
                        ) from None
                sleep(PAUSE)

    def exit_status(self) -> int | None:
        """That of a job which has ended, 0 if it was stopped; None: it has not.

        Raises:
            SDWError: Ray could not run the job.
        """
        info = self._client.get_job_info(self.job)
        if not info.status.is_terminal():
            return None
        if info.driver_exit_code is None and info.status == "FAILED":
            why = (info.message or "").strip().splitlines() or ["it does not say why"]
            raise SDWError(f"Ray could not run the job {self.job}: {why[-1].rstrip('.')}.")
        return info.driver_exit_code or 0


async def _next(tail: AsyncIterator[str]) -> str | None:
    return await anext(tail, None)


def submitted(address: str, name: str, storage: str | None, spec: StudySpec | None) -> Submission:
    """Submit a study.

    Args:
        address: of the job server, `http://HEAD:8265`.
        name: the study's; of one that is there, its path will do.
        storage: the folder of studies, by its whole path on the cluster; None: as the head says.
        spec: of a new study; None: go on with the one that is there.

    Raises:
        InputError: no job server answers there, it wants another token, the storage is no whole
            path, or what the spec names cannot be brought.
    """
    if storage is not None and not storage.startswith("/"):
        raise InputError(
            "The `storage` of a submitted study is a folder of the cluster, by its whole path, not "
            f"{shown(storage)}; give one such as /shared/studies, or leave it out where the head's "
            "Ray was started with SDW_STORAGE."
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        order = {"study": name, "storage": storage, "resume": spec is None, "version": __version__}
        write_json(folder / ORDER, order)
        (folder / "job.sh").write_text(SCRIPT)
        if spec:
            bring(spec, folder / FILES)
        client, token = connected(address)
        job = f"sdw-{Path(name).name}-{token_hex(3)}"
        try:
            client.submit_job(
                entrypoint=f"sh job.sh {job}",
                submission_id=job,
                runtime_env={
                    "working_dir": temporary,
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": STOPPING},
                },
            )
        except (OSError, RuntimeError) as error:
            raise SDWError(
                f"The job server at {address} does not take the job: "
                f"{first_line(error).rstrip('.') or type(error).__name__}."
            ) from None
    return Submission(address, job, name, storage, token, client)


def bring(spec: StudySpec, into: Path) -> None:
    """Write a spec, and the files and modules that it names and that are here, into a new folder.

    The spec names them by their places in there. An id of a dataset stays one, of the cluster's;
    so does a path at which nothing lies here.

    Raises:
        InputError: a module of the user's own cannot be imported, or it is too much.
    """
    for config in spec.reaching():
        require_parts(config)
    modules = module_files()
    brought: dict[Path, str] = {}

    def file(path: Any) -> Any:
        if not isinstance(path, str) or not Path(path).exists():
            return path
        return brought.setdefault(Path(path), f"files/{len(brought)}/{Path(path).name}")

    def dataset(reference: Any) -> Any:
        where, environment = split_reference(reference)
        if folder_of_id(where):
            return reference
        there = file(str(folder_of(where) or where))
        return f"{there}?env={environment}" if environment else there

    meant = with_files(spec, {"dataset": dataset, "expert.path": file})
    places = {path: Path(place) for path, place in brought.items()} | modules
    inside = (each for path in places for each in (path, *path.rglob("*")) if each.is_file())
    if (size := sum(each.stat().st_size for each in inside)) > MOST:
        largest = max(brought, key=lambda path: path.stat().st_size, default="modules")
        raise InputError(
            f"A job may bring {MOST / 1e6:.0f} MB, and what the spec names is {size / 1e6:.0f} MB "
            f"(such as {str(largest)!r}); copy it onto the cluster's file system, and name it in "
            "the spec by its whole path there."
        )
    for path, place in places.items():
        (into / place).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, into / place)
    into.mkdir(parents=True, exist_ok=True)
    document = meant.model_dump(mode="json")
    (into / SPEC).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def connected(address: str) -> tuple["JobSubmissionClient", bool]:
    """A client of a job server, and whether that wanted a token.

    Raises:
        InputError: it is no such address, nobody answers there, or the token is missing or wrong.
    """
    scheme, mark, _ = address.partition("://")
    if not mark or scheme not in ("http", "https"):
        raise InputError(
            "A study is submitted to the job server of a cluster, http://HEAD:8265, not to "
            f"{shown(address)}; give that address, of a head that this machine reaches, or of a "
            "tunnel as `ssh -L 8265:127.0.0.1:8265 HEAD` makes it."
        )
    address = address.rstrip("/")
    headers = _let_in(address)
    elsewhere = {
        name: os.environ.pop(name)
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        if name in os.environ
    }
    try:
        from ray.job_submission import JobSubmissionClient

        for name in QUIET:
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        return JobSubmissionClient(address, headers=dict(headers)), bool(headers)
    except (OSError, RuntimeError) as error:
        raise _no_server(address, first_line(error)) from None
    finally:
        os.environ |= elsewhere


def _let_in(address: str) -> Mapping[str, str]:
    """The headers with which a job server lets this process in; none where it wants no token.

    Raises:
        InputError: nobody answers, or the token is missing or wrong.
    """
    status = _asked(address, {})
    if status == 200:
        return {}
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    tokens = AuthenticationTokenLoader.instance()
    tokens.reset_cache()
    headers: dict[str, str] = tokens.get_token_for_http_header(ignore_auth_mode=True)
    if not headers:
        raise InputError(
            f"The job server at {address} asks for a token, and there is none here; {GIVE_TOKEN}."
        )
    if _asked(address, headers) != 200:
        raise InputError(
            f"The job server at {address} does not take the token that is here; {GIVE_TOKEN}."
        )
    return headers


def _asked(address: str, headers: Mapping[str, str]) -> int:
    """The status of a job server's answer: 200, or 401 or 403 for a token.

    Raises:
        InputError: no job server answers.
    """
    try:
        with urlopen(Request(f"{address}/api/version", headers=dict(headers)), timeout=REACH) as it:
            if "ray_version" in json.load(it):
                return 200
        why = "what listens there is none of Ray's"
    except HTTPError as error:
        if error.code in (401, 403):
            return error.code
        why = f"what listens there answers {error.code}"
    except (URLError, OSError) as error:
        why = first_line(getattr(error, "reason", error)) or type(error).__name__
    except (ValueError, HTTPException):  # no JSON, or no HTTP
        why = "what listens there is none of Ray's"
    raise _no_server(address, why)


def _no_server(address: str, why: str) -> InputError:
    return InputError(
        f"No job server of Ray answers at {address} ({why.rstrip('.')}); look whether the head "
        "runs, with its dashboard, and whether this machine reaches it: `ssh -L "
        "8265:127.0.0.1:8265 HEAD` makes a tunnel to http://127.0.0.1:8265."
    )
