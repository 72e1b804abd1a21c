"""Dashboards of a study: optuna-dashboard and TensorBoard, both on loopback."""

import subprocess
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna_dashboard import wsgi
from rich.console import Console

from sdw_core.errors import InputError
from study.folder import StudyFolder

HOST = "127.0.0.1"


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""


def serve(folder: StudyFolder, port: int, console: Console) -> None:
    """Serve until interrupted. Loopback only: optuna-dashboard's page can delete studies.

    Args:
        folder: the study.
        port: of optuna-dashboard; 0 takes a free one.
        console: told the addresses.

    Raises:
        InputError: the port is taken.
    """
    folder.book()
    try:
        server: WSGIServer = make_server(
            HOST, port, wsgi(folder.optuna_storage()), handler_class=_Quiet
        )
    except OSError as error:
        raise InputError(
            f"Port {port} on {HOST} cannot be used ({error.strerror}); choose another `--port`."
        ) from None
    place = ["--host", HOST, "--port", str(server.server_port + 1)]
    board = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder.tune), *place],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ray_dashboard = folder.driver().get("ray_dashboard") if folder.driven() else None
    lines = {
        "trials (optuna-dashboard)": f"http://{HOST}:{server.server_port}/",
        "curves (TensorBoard)": f"http://{HOST}:{server.server_port + 1}/",
        "processes (Ray dashboard)": f"http://{ray_dashboard}/"
        if ray_dashboard
        else "only while the study runs",
    }
    for name, address in lines.items():
        console.print(f"{name:28}{address}", highlight=False)
    console.print("Ctrl-C ends it.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        board.terminate()
        board.wait()
        server.server_close()
