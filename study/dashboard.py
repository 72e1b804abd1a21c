"""Dashboards of a study: optuna-dashboard and TensorBoard, both on loopback."""

import contextlib
import logging
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from sdw_core.console import Console
from sdw_core.errors import InputError
from study.exhibit import Exhibit, refused
from study.folder import StudyFolder
from study.signals import Ended, ending

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request: a browser opens connections that it sends nothing over at first."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""


def serve(folder: StudyFolder, port: int, console: Console) -> None:
    """Serve until interrupted, on loopback only; nothing of the study can be changed by it.

    Args:
        folder: the study.
        port: of optuna-dashboard; 0 takes a free one. TensorBoard takes a free one.
        console: told the addresses.

    Raises:
        InputError: the port is taken.
        SDWError: the study's database cannot be read.
    """
    exhibit = Exhibit(folder)
    app = _guarded(exhibit)
    try:
        server = make_server(HOST, port, app, _Server, _Quiet)
    except OSError as error:
        raise InputError(
            f"Port {port} on {HOST} cannot be used ({error.strerror}); choose another `--port`."
        ) from None
    ray_dashboard = folder.driver().get("ray_dashboard") if folder.driven() else None
    lines = {
        "trials (optuna-dashboard)": f"http://{HOST}:{server.server_port}/",
        "curves (TensorBoard)": _tensorboard(folder),
        "processes (Ray dashboard)": f"http://{ray_dashboard}/"
        if ray_dashboard
        else "only while the study runs",
    }
    # A signal ends it from the moment that it says so.
    with contextlib.closing(exhibit), server, contextlib.suppress(Ended), ending():
        for name, address in lines.items():
            console.print(f"{name:28}{address}")
        console.print("Ctrl-C ends it.")
        server.serve_forever()


def _guarded(app: "WSGIApplication") -> "WSGIApplication":
    """Refuse requests that name another host, or that would change something.

    A page elsewhere whose name was bound to loopback names another host. The page's own buttons
    that change or delete something are no reading.
    """

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        if environ.get("HTTP_HOST", "").partition(":")[0] not in (HOST, "localhost"):
            return refused(
                start_response, "403 Forbidden", "This dashboard answers on loopback only."
            )
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refused(
                start_response,
                "405 Method Not Allowed",
                "This dashboard shows and changes nothing.",
            )
        return app(environ, start_response)

    return guarded


def _tensorboard(folder: StudyFolder) -> str:
    """The address of a TensorBoard in a thread of this process, which it ends with."""
    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard(default.get_plugins())
    board.configure(logdir=str(folder.trials), host=HOST, port=0, load_fast="false")
    return str(board.launch())
