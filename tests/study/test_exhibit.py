"""What optuna-dashboard is given to show: a copy of a study that no request can change it by."""

import json
from gzip import decompress
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from sdw_core.config import PipelineConfig
from sdw_core.errors import InputError
from sdw_core.files import write_json
from sdw_core.labels import POSTER
from study import exhibit
from study.curves import TrialCurves
from study.dashboard import _guarded
from study.exhibit import Exhibit
from study.folder import StudyFolder
from study.pictures import Pictures
from study.search import StudySearch
from tests.study.conftest import small_spec
from tests.study.reports import report, run_trials, thousand_trials

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhibit, "FRESH", -1.0)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study of one trial that really ran; nothing is to be changed in it."""
    folder = StudyFolder.create(small_spec(), tmp_path_factory.mktemp("ran"))
    run_trials(folder)
    return folder


def request(
    app: Any, path: str, method: str = "GET", document: Any = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of what a page is answered on loopback."""
    address, _, query = path.partition("?")
    environ = {"REQUEST_METHOD": method, "PATH_INFO": address, "QUERY_STRING": query}
    environ |= {"HTTP_HOST": "127.0.0.1:8080", "HTTP_ACCEPT_ENCODING": "gzip"}
    sent = json.dumps(document).encode()
    environ |= {"wsgi.input": BytesIO(sent), "CONTENT_LENGTH": str(len(sent))}
    environ["CONTENT_TYPE"] = "application/json"
    setup_testing_defaults(environ)
    answer: list[Any] = []

    def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answer.extend([int(status[:3]), dict(headers)])
        return answer.append

    content = b"".join(app(environ, begin))
    return answer[0], answer[1], content


def shown(app: Any) -> dict[str, Any]:
    status, _, content = request(app, "/api/studies/0?after=0")
    assert status == 200, content
    return json.loads(content)


def attributes(document: dict[str, Any]) -> dict[str, str]:
    return {each["key"]: each["value"] for each in document["user_attrs"]}


def ended(folder: StudyFolder, *outcomes: dict[str, Any]) -> StudySearch:
    """Trials that ended as reported, without a result in their folders."""
    search = StudySearch(folder.book())
    for index, outcome in enumerate(outcomes):
        search.suggest(str(index))
        search.on_trial_complete(str(index), report(**outcome))
    return search


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_trial_bears_names_and_attributes_that_can_be_read(ran):
    document = shown(Exhibit(ran))
    assert document["objective_names"] == ["normalized_return"]
    (trial,) = document["trials"]
    said = attributes(trial)
    result = json.loads((ran.trial(0) / "result.json").read_text())
    summary = result["normalized_return"]
    assert said["outcome"] == "COMPLETE"
    assert said["return"] == (
        f"{summary['mean']:.1f} (95 % {summary['low']:.1f} to {summary['high']:.1f})"
    )
    assert float(said["ESS %"]) == pytest.approx(result["effective_sample_size_percent"], abs=0.01)
    assert float(said["expert"]) == pytest.approx(result["expert"]["mean"], abs=0.01)
    assert float(said["seconds: distill"]) == pytest.approx(result["stages"]["distill"], abs=0.01)
    assert said["node"] == result["node"]
    assert "trial" not in said  # the book's own, in JSON
    assert max(map(len, said.values())) < 80
    assert document["best_trials"][0]["number"] == 0
    assert "Trial 0 ran" in trial["note"]["body"]
    assert "the best so far" in trial["note"]["body"]


def test_the_pictures_of_a_trial_are_drawn_when_they_are_asked_for(ran):
    before = content_of(ran.trial(0))
    app = Exhibit(ran)
    (trial,) = shown(app)["trials"]
    names = {each["filename"]: each["artifact_id"] for each in trial["artifacts"]}
    assert list(names) == ["learning-curve.png", "states.png"]
    pictures = {name: request(app, f"/artifacts/0/0/{id_}") for name, id_ in names.items()}
    for status, headers, content in pictures.values():
        assert (status, headers["Content-Type"], content[:4]) == (200, "image/png", PNG)
    assert pictures["learning-curve.png"][2] != pictures["states.png"][2]
    assert content_of(ran.trial(0)) == before
    assert f"](/artifacts/0/0/{names['states.png']})" in shown(app)["note"]["body"]


def gone(config: PipelineConfig) -> None:
    raise InputError("the dataset is not there any more.")


def test_a_process_ends_once_the_picture_under_way_is_drawn(ran, monkeypatch):
    drawing, on = Event(), Event()

    def slowly(self: Pictures, number: int) -> BytesIO:
        drawing.set()
        assert on.wait(10)
        return BytesIO(PNG)

    monkeypatch.setattr(Pictures, "_states", slowly)
    app = Exhibit(ran)
    asking = Thread(target=request, args=(app, "/artifacts/0/0/0-1"))
    closing = Thread(target=app.close)
    asking.start()
    assert drawing.wait(10)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    on.set()
    asking.join(10)
    closing.join(10)
    assert not closing.is_alive()


def test_without_its_dataset_a_trial_still_shows_its_states(ran, monkeypatch):
    whole = request(Exhibit(ran), "/artifacts/0/0/0-1")[2]
    monkeypatch.setattr("sdw_core.dataset.load_dataset", gone)
    status, _, content = request(Exhibit(ran), "/artifacts/0/0/0-1")
    assert (status, content[:4]) == (200, PNG)
    assert content != whole


def test_a_film_that_is_rendered_meanwhile_is_shown(folder):
    ended(folder, {"normalized_return": 1.0})
    app = Exhibit(folder)
    assert "rollout.png" not in json.dumps(shown(app)["trials"][0]["artifacts"])
    export = folder.exports / "trial-0"
    export.mkdir(parents=True)
    (export / POSTER).write_bytes(PNG)
    (poster,) = (
        each for each in shown(app)["trials"][0]["artifacts"] if each["filename"] == "rollout.png"
    )
    assert request(app, f"/artifacts/0/0/{poster['artifact_id']}")[2] == PNG


def test_the_curve_of_a_trial_under_way_is_shown_from_its_first_point_on(folder):
    with folder.seat.lock():  # a driver lives
        StudySearch(folder.book()).suggest("a")
        app = Exhibit(folder)
        assert shown(app)["trials"][0]["artifacts"] == []
        curves = TrialCurves(folder.trial(0))
        curves("distill/meta_loss", {1: 0.5, 2: 0.25})
        curves.close()
        write_json(folder.trial(0) / "progress.json", {"stage": "distill", "fraction": 0.5})
        (trial,) = shown(app)["trials"]
    assert attributes(trial)["stage"] == "distill (5/6), 50 %"
    assert [each["filename"] for each in trial["artifacts"]] == ["learning-curve.png"]
    assert request(app, "/artifacts/0/0/0-0")[2][:4] == PNG


def test_no_request_changes_or_deletes_anything(folder):
    ended(folder, {"normalized_return": 1.0}, {"outcome": "FAILED"})
    StudySearch(folder.book()).suggest("a")  # one that runs
    app = Exhibit(folder)
    guarded = _guarded(app)
    before, trials = shown(app), content_of(folder.path / "trials")
    routes = {(route.method, route.rule) for route in app._app.routes}
    assert ("DELETE", "/api/studies/<study_id:int>") in routes
    for method, rule in routes:
        path = rule.split("<:re")[0]
        for part, value in {"study_id": "0", "trial_id": "0", "history_id": "0"}.items():
            path = path.replace(f"<{part}:int>", value).replace(f"<{part}>", value)
        path = path.replace("<artifact_id:re:[0-9a-fA-F-]+>", "0-0").split("<")[0]
        status, _, content = request(guarded, path, method)
        if method not in ("GET", "HEAD"):
            assert status == 405, (method, path)
            assert json.loads(content)["reason"] == "This dashboard shows and changes nothing."
    assert shown(app) == before
    assert content_of(folder.path / "trials") == trials
    states = [trial.state.name for trial in folder.book().trials()]
    assert states == ["COMPLETE", "FAIL", "RUNNING"]
    assert folder.book().study.user_attrs.keys() == {"identity"}


def test_even_what_the_page_itself_would_write_reaches_its_copy_alone(folder):
    ended(folder, {"normalized_return": 1.0})
    app = Exhibit(folder)
    document = {"remove_associated_artifacts": False}
    assert request(app, "/api/studies/0", "DELETE", document)[0] == 204
    assert json.loads(request(app, "/api/studies")[2])["study_summaries"] == []
    assert [row.outcome for row in folder.book().rows()] == ["COMPLETE"]


def test_a_page_that_bears_another_name_is_refused(folder):
    environ = {"PATH_INFO": "/api/studies", "HTTP_HOST": "evil.example"}
    setup_testing_defaults(environ)
    said: list[str] = []
    _guarded(Exhibit(folder))(environ, lambda status, headers: said.append(status))
    assert said == ["403 Forbidden"]


def test_a_study_that_is_written_to_is_shown_as_it_is_now(folder):
    app = Exhibit(folder)
    assert shown(app)["trials"] == []
    assert shown(app)["note"]["body"].startswith("## No trial has completed yet")
    search = StudySearch(folder.book())
    with folder.seat.lock():  # a driver lives
        search.suggest("a")
        (trial,) = shown(app)["trials"]
        assert (trial["state"], attributes(trial)["stage"]) == ("Running", "dataset (1/6), 0 %")
        assert "runs" in trial["note"]["body"]
        search.on_trial_complete("a", report(normalized_return=3.25))
        search.suggest("b")
        done, running = shown(app)["trials"]
    assert (done["state"], done["values"], running["state"]) == ("Complete", [3.25], "Running")
    assert shown(app)["note"]["body"].startswith(
        "## Best: [trial 0](/dashboard/studies/0/trials?numbers=0), normalised return 3.25"
    )
    assert shown(app)["trials"][1]["state"] == "Waiting"  # its process is gone


def test_a_copy_is_made_again_only_when_the_study_has_changed(folder):
    ended(folder, {"normalized_return": 1.0})
    app = Exhibit(folder)
    first = app._app
    shown(app)
    assert app._app is first
    ended(folder, {"normalized_return": 2.0})
    shown(app)
    assert app._app is not first


def test_all_failed_is_said_with_the_reasons(folder):
    ended(folder, {"outcome": "FAILED"}, {"outcome": "FAILED"})
    document = shown(Exhibit(folder))
    note = document["note"]["body"]
    assert note.startswith("## No trial has completed yet")
    assert "**2 FAILED.** why (trial 0, 1)" in note
    assert "sdw retry-failed" in note
    assert [attributes(each)["reason"] for each in document["trials"]] == ["why", "why"]
    assert document["best_trials"] == []


def test_what_others_say_is_no_markdown(folder):
    search = StudySearch(folder.book())
    search.suggest("a")
    reason = "divergence: [a](b) ![c](d) | **e** `f`\n# g"
    failed = {"outcome": "FAILED", "reason": reason, "warnings": [reason]}
    search.on_trial_complete("a", {"document": json.dumps(failed)})
    document = shown(Exhibit(folder))
    said = r"divergence: \[a\](b) \!\[c\](d) \| \*\*e\*\* \`f\`\\n\# g"
    assert f"**1 FAILED.** {said} (trial 0)" in document["note"]["body"]
    assert f"**1 warned.** {said}" in document["note"]["body"]
    (trial,) = document["trials"]
    assert f"Trial 0 failed ({said})." in trial["note"]["body"]
    assert f"**Warned.** {said}" in trial["note"]["body"]


def test_a_copy_of_an_export_is_none_of_the_studys(folder):
    for name in ("trial-0", "trial-0-copy"):
        (folder.exports / name).mkdir(parents=True)
        (folder.exports / name / POSTER).write_bytes(PNG)
    ended(folder, {"normalized_return": 3.0})
    (trial,) = shown(Exhibit(folder))["trials"]
    assert [each["filename"] for each in trial["artifacts"]] == ["rollout.png"]


def test_two_objectives_show_the_pareto_front(pareto):
    ended(
        pareto,
        {"normalized_return": 50.0, "synthetic_size": 10},
        {"normalized_return": 60.0, "synthetic_size": 20},
        {"normalized_return": 40.0, "synthetic_size": 30},
    )
    document = shown(Exhibit(pareto))
    assert document["objective_names"] == ["normalized_return", "synthetic_size"]
    note = document["note"]["body"]
    assert note.startswith("## 2 trials on the Pareto front")
    assert "| normalised return | synthetic size | settings |" in note
    assert "| [trial 1](/dashboard/studies/0/trials?numbers=1) | 60 | 20 |" in note
    assert "trial 2" not in note
    assert {each["number"] for each in document["best_trials"]} == {0, 1}


def test_the_front_page_is_the_studys_note(folder):
    app = Exhibit(folder)
    status, headers, _ = request(app, "/")
    assert (status, headers["Location"]) == (302, "/dashboard/studies/0/note")
    status, headers, page = request(app, headers["Location"])
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert exhibit.STYLE.encode() in decompress(page)
    assert int(headers["Content-Length"]) == len(page)
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_a_click_in_the_history_finds_its_trial_with_this_version_of_the_page(folder):
    before, after = (each.encode() for each in exhibit.EDITS["/static/bundle.js"])
    script = decompress(request(Exhibit(folder), "/static/bundle.js")[2])
    assert (script.count(before), script.count(after)) == (0, 1)


def test_a_study_that_is_out_of_reach_is_said_and_then_shown_again(folder):
    app = Exhibit(folder)
    spec = folder.path / "study.yaml"
    spec.rename(spec.with_suffix(".away"))
    status, _, content = request(app, "/api/studies/0")
    assert status == 503
    assert "study.yaml" in json.loads(content)["reason"]
    spec.with_suffix(".away").rename(spec)
    assert shown(app)["name"] == folder.name


@pytest.mark.slow
def test_a_thousand_trials_are_shown_in_seconds(tmp_path):
    folder = thousand_trials(tmp_path)
    begun = perf_counter()
    app = Exhibit(folder)
    document = shown(app)
    first, begun = perf_counter() - begun, perf_counter()
    request(app, "/api/studies/0?after=1000")
    again = perf_counter() - begun
    assert len(document["trials"]) == 1000
    assert document["best_trials"][0]["number"] == 197
    assert first < 15
    assert again < 1
