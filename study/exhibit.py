"""A study as optuna-dashboard shows it: a copy in memory, with names, notes, attributes, pictures.

The page of optuna-dashboard can change and delete whatever its storage holds, so it is never given
the study's own. It is given a copy, which is made of a `Snapshot` and made again when the study has
changed; nothing of the study is written. Metric names, notes and artifacts are those that Optuna
and optuna-dashboard define. A picture is drawn when the page asks for it.
"""

import json
import warnings
from copy import copy
from dataclasses import asdict, replace
from gzip import compress
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState
from optuna_dashboard import save_note, wsgi
from optuna_dashboard._note import save_note_with_version

from sdw_core.errors import first_line
from study.book import TrialRow
from study.folder import StudyFolder
from study.notes import PAGE, study_note, trial_note
from study.outcomes import FINAL, read_result
from study.pictures import Pictures
from study.snapshot import Snapshot, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

FRESH = 2.0
"""Seconds for which a copy is taken as it is; the page itself asks every ten seconds."""
STYLE = """<style>
main { min-width: 0; overflow-wrap: break-word }
main code { overflow-wrap: anywhere }
main img { max-width: min(100%, 34rem) !important }
main .MuiCardContent-root > .MuiIconButton-root, main .MuiCard-root:has(> button),
main [aria-label$=" study"], main button:has([data-testid="AddBoxIcon"]),
main button:has([data-testid="StopCircleIcon"]) { display: none }
@media (max-width: 600px) {
  main .MuiGrid-container { flex-direction: column; flex-wrap: nowrap }
  main .MuiGrid-container > .MuiGrid-item { max-width: 100%; flex-basis: auto }
  main .MuiGrid-container > .MuiGrid-container { order: 1 }
  main .MuiBox-root:has(> .MuiBox-root > .MuiList-root) { flex-direction: column }
  main .MuiBox-root:has(> .MuiList-root) { max-height: 25vh; flex: none }
  main .MuiBox-root > .MuiTypography-body1 { min-width: 6rem; width: 6rem }
}
</style></head>"""
"""Added to the page's own: the buttons that would change something are not shown, and on a phone
what lies side by side lies one below the other."""
EDITS = {
    "/dashboard": ("</head>", STYLE),
    "/static/bundle.js": ("curveNumber/2)].id", "curveNumber/2)%e.length].id"),
}
"""Beginning of an address -> what is replaced in its content, and by what. In version 0.21 a click
on a point of the history looks its trial up in a second study, which a page of one study lacks."""


class Exhibit:
    """The WSGI application of optuna-dashboard over the newest copy of a study.

    Args:
        folder: the study.

    Raises:
        SDWError: the study's database cannot be read.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._book = folder.book()
        self._pictures = Pictures(self._book.spec, folder)
        self._ended: dict[int, dict[str, Any]] = {}
        self._lock = Lock()
        self._looked = 0.0
        self._show(Snapshot.of(folder, self._book), self._pictures.rendered())

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> "Iterable[bytes]":
        """Answer a request; the front page is the study's note."""
        if environ.get("PATH_INFO", "").strip("/") in ("", "dashboard"):
            start_response("302 Found", [("Location", f"{PAGE}/note")])
            return []
        try:
            app = self._latest()
        except Exception as error:  # a database out of reach, a folder that was moved
            return refused(start_response, "503 Service Unavailable", first_line(error))
        for address, edit in EDITS.items():
            if environ["PATH_INFO"].startswith(address):
                return _edited(app, environ, start_response, *edit)
        return app(environ, start_response)

    def close(self) -> None:
        """Draw no more: call it before the process ends."""
        self._pictures.close()

    def _latest(self) -> "WSGIApplication":
        with self._lock:
            if monotonic() - self._looked > FRESH:
                snapshot = Snapshot.of(self._folder, self._book)
                rendered = self._pictures.rendered()
                if (replace(snapshot, at=0), rendered) != self._shown:
                    self._show(snapshot, rendered)
                self._looked = monotonic()
            return self._app

    def _show(self, snapshot: Snapshot, rendered: frozenset[int]) -> None:
        self._app: WSGIApplication = wsgi(self._copy(snapshot, rendered), self._pictures)
        self._shown, self._looked = (replace(snapshot, at=0), rendered), monotonic()

    def _copy(self, snapshot: Snapshot, rendered: frozenset[int]) -> BaseStorage:
        """A storage of that study alone; its trials have their numbers."""
        storage = InMemoryStorage()
        study = optuna.create_study(
            study_name=snapshot.folder.name,
            storage=storage,
            directions=self._book.study.directions,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([each.metric for each in snapshot.spec.study.objectives])
        pictures = [self._pictures.of(row, rendered) for row in snapshot.trials]
        save_note(study, study_note(snapshot, pictures))
        study.set_user_attr("state", snapshot.state)
        if snapshot.ended_by:
            study.set_user_attr("ended by", snapshot.ended_by)
        study.set_user_attr("trials", f"{len(snapshot.settled)} of {snapshot.total}")
        study.set_user_attr("folder", str(snapshot.folder.path))
        for row, trial in zip(snapshot.trials, self._book.trials(), strict=False):  # may be more
            shown = copy(trial)
            if row.outcome == "WAITING":  # also one whose process is gone
                shown.state = TrialState.WAITING
            shown.values = trial.values and [float(f"{value:.6g}") for value in trial.values]
            shown.user_attrs = self._attributes(snapshot, row)
            shown._system_attrs = {
                f"artifacts:{picture.artifact_id}": json.dumps(asdict(picture))
                for picture in pictures[row.number]
            }
            if trial.constraints:  # the page greys what is beyond one
                shown._system_attrs["constraints"] = list(trial.constraints.values())
            trial_id = storage.create_new_trial(study._study_id, shown)
            save_note_with_version(storage, study._study_id, trial_id, 1, trial_note(snapshot, row))
        return storage

    def _attributes(self, snapshot: Snapshot, row: TrialRow) -> dict[str, Any]:
        """What is known of a trial beside its settings; what is not known is left out."""
        if row.number in self._ended:
            return self._ended[row.number]
        result = read_result(self._folder.trial(row.number))
        summary, expert = (result.normalized_return, result.expert) if result else (None, None)
        running = next((each for each in snapshot.under_way if each.number == row.number), None)
        said: dict[str, Any] = {"outcome": row.outcome, "reason": row.reason}
        if summary:
            interval = f"(95 % {summary.low:.1f} to {summary.high:.1f})"
            said["return"] = f"{summary.mean:.1f} {interval}"
        if running:
            said["stage"] = f"{stage(running)}, {100 * running.fraction:.0f} %"
        said |= {
            "expert": expert.mean if expert else running and running.expert,
            "ESS %": result and result.effective_sample_size_percent,
            "node": running.node if running else row.node,
            "seconds": row.seconds,
        }
        said |= {f"seconds: {name}": seconds for name, seconds in row.stages.items()}
        said |= {"beyond": ", ".join(row.violates) or None}
        said |= {"retry of": row.retry_of, "asked": row.asked or None}
        said |= {"warnings": len(row.warnings) or None}
        known = {
            key: round(value, 2) if isinstance(value, float) else value
            for key, value in said.items()
            if value is not None
        }
        if row.outcome in FINAL:  # it will not change
            self._ended[row.number] = known
        return known


def _edited(
    app: "WSGIApplication",
    environ: "WSGIEnvironment",
    start_response: "StartResponse",
    before: str,
    after: str,
) -> list[bytes]:
    """A file of the page with other words in it; whole and plain, whatever a browser has of it."""
    whole = {key: value for key, value in environ.items() if not key.startswith("HTTP_IF_")}
    said: dict[str, Any] = {}

    def begin(
        status: str, headers: list[tuple[str, str]], exc_info: object = None
    ) -> "Callable[[bytes], object]":
        said.update(status=status, headers=dict(headers))
        return lambda content: None

    answer = app(whole | {"HTTP_ACCEPT_ENCODING": "identity"}, begin)
    content = b"".join(answer).replace(before.encode(), after.encode())
    if hasattr(answer, "close"):
        answer.close()
    headers = said["headers"] | {"Cache-Control": "no-store"}
    if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        content, headers["Content-Encoding"] = compress(content, 1), "gzip"
    headers["Content-Length"] = str(len(content))
    start_response(said["status"], list(headers.items()))
    return [content]


def refused(start_response: "StartResponse", status: str, reason: str) -> list[bytes]:
    """The answer to a request that is not served, as optuna-dashboard's page shows it."""
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps({"reason": reason}).encode()]
