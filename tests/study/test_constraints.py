"""Constraints: what is beyond one is never the best, and is shown with it; samplers learn it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdw_core.errors import InputError
from search_spaces import parse_spec
from search_spaces.constraints import MEASURED
from study import Study
from study.export import export
from study.folder import StudyFolder
from study.race import ranked
from study.search import StudySearch
from tests.mutations import is_a_sentence
from tests.study.commands import sdw
from tests.study.conftest import small_spec

SIZE = "distill.synthetic_size"
BOUNDS = "[{metric: seconds, max: 60}, {metric: distill.synthetic_size, min: 16, max: 18}]"
BOTH = "[{metric: normalized_return, mode: max}, {metric: seconds, mode: min}]"


def constrained(storage: Path, *trials: tuple[float, float], **given: Any) -> StudyFolder:
    """A study whose trials, of sizes from 16 on, found these returns in these seconds."""
    queue = [{SIZE: 16 + i, "weighting.temperature": 0} for i in range(len(trials))]
    spec = small_spec(
        *("study.database=journal", f"study.trials={len(trials)}", f"study.enqueue={queue}"),
        f"study.constraints={given.get('bounds', BOUNDS)}",
        *given.get("overrides", ()),
    )
    folder = StudyFolder.create(spec, storage)
    search = StudySearch(folder.book())
    for number, (value, seconds) in enumerate(trials):
        search.suggest(str(number))
        search.on_trial_complete(str(number), found(value, seconds))
    return folder


def found(value: float, seconds: float, **more: Any) -> dict[str, Any]:
    metrics = {"normalized_return": value, "iqm": value, "seconds": seconds, "synthetic_size": 16}
    document = {"outcome": "COMPLETE", "metrics": metrics, "stages": {"distill": seconds}}
    return {"document": json.dumps(document | {"seconds": seconds} | more)}


TRIALS = (50.0, 60.0), (90.0, 60.5), (40.0, 1.0), (99.0, 100.0)


def test_a_trial_beyond_a_constraint_is_never_the_best_and_says_so(tmp_path, capsys):
    folder = constrained(tmp_path, *TRIALS)
    book = folder.book()
    assert book.best(9) == [0, 2]
    assert ranked(book, None, 9) == [0, 2]
    assert [row.violates for row in book.rows()] == [
        {},
        {"seconds <= 60": 0.5},
        {},
        {"seconds <= 60": 40.0, f"{SIZE} <= 18": 1},
    ]
    _, out, _ = sdw(capsys, "status", folder.path)
    outcomes = [line.partition("COMPLETE ")[2].strip() for line in out.splitlines()[3:7]]
    assert outcomes[0] == "best asked"
    assert outcomes[1] == "beyond seconds <= 60 asked"
    study = Study.open(folder.path)
    assert study.status()["trials"][1]["violates"] == {"seconds <= 60": 0.5}
    assert study.frame()["violates"].tolist()[:2] == ["", "seconds <= 60"]
    page = study.report().read_text()
    assert "COMPLETE, asked, beyond seconds &lt;= 60" in page
    assert "trial 0: " in page
    assert "so that it is never the best" in page


def test_a_front_holds_none_that_is_beyond_a_constraint(tmp_path):
    folder = constrained(tmp_path, *TRIALS, overrides=[f"study.objectives={BOTH}"])
    assert folder.book().best() == [0, 2]


def test_a_database_made_anew_knows_them(tmp_path):
    folder = constrained(tmp_path, *TRIALS)
    before = folder.book()
    folder.rebuild()
    book = folder.book()
    assert book.best(9) == [0, 2]
    assert [t.constraints for t in book.trials()] == [t.constraints for t in before.trials()]


def test_where_no_trial_satisfies_them_the_study_says_so(tmp_path, capsys):
    folder = constrained(tmp_path, (50.0, 61.0), (90.0, 80.0))
    assert folder.book().best() == []
    sentence = (
        "No trial satisfies `study.constraints`: of 2 COMPLETE trials all are beyond "
        "seconds <= 60 (2 trials)."
    )
    status, out, _ = sdw(capsys, "status", folder.path)
    assert (status, sentence in out) == (0, True)
    assert "No trial satisfies" in Study.open(folder.path).report().read_text()
    with pytest.raises(InputError, match="no COMPLETE trial within its constraints to export"):
        export(folder, folder.book().best())


@pytest.mark.parametrize("metric", ["seconds.distill", "expert", "effective_sample_size_percent"])
def test_whatever_a_trial_measures_can_be_constrained(tmp_path, metric):
    bounds = f"[{{metric: {metric}, max: 10}}]"
    folder = constrained(tmp_path, bounds=bounds, overrides=["study.trials=2", "study.enqueue=[]"])
    book = folder.book()
    search = StudySearch(book)
    expert = {"mean": 10.5, "iqm": 1.0, "low": 1.0, "high": 1.0, "per_policy": [1.0]}
    more = {"expert": expert, "effective_sample_size_percent": 10.5}
    search.suggest("a")
    search.on_trial_complete("a", found(1.0, 10.5, **more))
    assert book.rows()[0].violates == {f"{metric} <= 10": 0.5}
    search.suggest("b")
    search.on_trial_complete("b", found(1.0, 1.0))
    row = book.rows()[1]
    if metric == "seconds.distill":
        assert (row.outcome, row.violates) == ("COMPLETE", {})
    else:  # nothing says that it is within
        assert (row.outcome, row.reason) == (
            "FAILED",
            "divergence: what a constraint is of is missing or not finite",
        )


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_samplers_that_can_keep_within(tmp_path, sampler):
    """The larger, the better; half of the range is beyond a constraint."""
    within = {}
    for bounds in ("[]", "[{metric: distill.synthetic_size, max: 48}]"):
        spec = small_spec(
            *(f"study.sampler={sampler}", "study.trials=24", "study.database=journal"),
            *(f"study.constraints={bounds}", f"study.name=of-{len(within)}"),
            "search={distill.synthetic_size: {type: int, low: 16, high: 80}}",
        )
        book = StudyFolder.create(spec, tmp_path).book()
        search, sizes = StudySearch(book), []
        for number in range(24):
            sizes.append(search.suggest(str(number))["params"][SIZE])
            search.on_trial_complete(str(number), found(float(sizes[-1]), 1.0))
        within[bounds] = sum(size <= 48 for size in sizes[12:])
    without, learnt = within.values()
    assert learnt >= without + 2
    assert book.rows()[book.best()[0]].params[SIZE] == max(size for size in sizes if size <= 48)


def spec_of(*constraints: Any) -> Any:
    return parse_spec(
        {
            "study": {"name": "a", "constraints": [*constraints]},
            "pipeline": {"dataset": "sdw/hopper-replay-mini-v0"},
            "search": {
                SIZE: {"type": "int", "low": 8, "high": 128},
                "distill.window": {"type": "categorical", "choices": [None, 20]},
            },
        }
    )


@pytest.mark.parametrize("metric", [*MEASURED, SIZE, "evaluation.ensemble", "distill.inner_lr"])
def test_what_is_measured_and_settings_that_are_numbers_are_allowed(metric):
    spec = spec_of({"metric": metric, "max": 20})
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert spec.identity != spec_of().identity


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        ({"metric": "second", "max": 3}, "cannot be 'second': it is one of `normalized_return`"),
        ({"metric": "second", "max": 3}, "did you mean `seconds`?"),
        ({"metric": "distill.objective", "max": 3}, "must be a number, and `pipeline.distill.obj"),
        ({"metric": "distill.window", "max": 3}, "must be a number, and `pipeline.distill.window`"),
        ({"metric": "seconds"}, "`study.constraints.0` must have a `max`, a `min` or both"),
        ({"metric": "seconds", "min": 3, "max": 2}, "needs min <= max, not min 3 and max 2"),
        (
            {"metric": SIZE, "max": 7},
            "satisfied by no trial, for `distill.synthetic_size` is 8 to",
        ),
        ({"metric": "synthetic_size", "min": 129}, "`synthetic_size` is 8 to 128 here; change the"),
        ({"metric": "evaluation.ensemble", "min": 2}, "for `evaluation.ensemble` is 1 here"),
        ({"metric": "seconds", "most": 2}, "unknown key `study.constraints.0.most`"),
        ({"max": 2}, "`study.constraints.0.metric` is missing"),
        ({"metric": "seconds", "max": "x"}, "`study.constraints.0.max` must be a number"),
    ],
)
def test_what_cannot_be_constrained_is_refused(constraint, words):
    with pytest.raises(InputError) as caught:
        spec_of(constraint)
    assert words in str(caught.value)
    assert is_a_sentence(str(caught.value))


def test_where_a_range_does_not_count_the_pipeline_s_value_is_bounded():
    window = {"type": "int", "low": 5, "high": 20, "when": {SIZE: 8}}
    spec = spec_of({"metric": "seconds", "max": 3}).model_dump(mode="json")
    spec["search"]["distill.window"] = window
    spec["pipeline"]["distill"]["window"] = None
    spec["study"]["constraints"] = [{"metric": "distill.window", "max": 10}]
    with pytest.raises(InputError, match="must be a number, and `pipeline"):
        parse_spec(spec)
    spec["pipeline"]["distill"]["window"] = 3
    spec["study"]["constraints"] = [{"metric": "distill.window", "max": 4}]
    assert parse_spec(spec)


def test_a_metric_has_one_constraint():
    with pytest.raises(InputError, match="a second constraint of `seconds`"):
        spec_of({"metric": "seconds", "max": 3}, {"metric": "seconds", "min": 3})
