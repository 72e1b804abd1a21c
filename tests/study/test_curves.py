"""What a trial leaves of its course: for TensorBoard, and for whoever reads its folder."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from sdw_core.errors import DivergenceError
from study import curves as curves_module
from study.curves import EVENTS, Curve, HParams, TrialCurves, followed, read_curves
from study.outcomes import ANSWERS, TrialResult
from tests.study.conftest import small_spec

LOSS = "distill/meta_loss"


def board(folder: Path) -> EventAccumulator:
    """What TensorBoard reads."""
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def scalars(seen: EventAccumulator, curve: str = LOSS) -> dict[int, float]:
    events = seen.Scalars(curve)
    assert len({event.step for event in events}) == len(events), "a point is there twice"
    return {event.step: event.value for event in events}


def some(*steps: int) -> dict[int, float]:
    return {step: 1.0 / step for step in steps}


def hparams(*overrides: str, **params: object) -> HParams:
    return HParams(small_spec(*overrides), 3, params)


def result(**found: object) -> TrialResult:
    metrics = {"normalized_return": 41.5, "iqm": 40.0, "seconds": 3.0}
    return TrialResult(**{"outcome": "COMPLETE", "metrics": metrics, **found})


def test_curves_are_the_same_in_the_file_and_in_tensorboard(tmp_path: Path) -> None:
    with followed(tmp_path, "hash", None) as told:
        told(LOSS, some(1, 2))
        told("density/held_out_log_likelihood", {10: -6.25})
        told(LOSS, some(3))
    assert read_curves(tmp_path) == {
        LOSS: Curve([1, 2, 3], [1.0, 0.5, 0.333333]),
        "density/held_out_log_likelihood": Curve([10], [-6.25]),
    }
    seen = board(tmp_path)
    assert scalars(seen) == pytest.approx(some(1, 2, 3))
    assert scalars(seen, "density/held_out_log_likelihood") == {10: -6.25}


@pytest.mark.parametrize("content", ["", '{"curves": {"a"', "[1]", "{}", '{"curves": {"a": 1}}'])
def test_a_file_that_holds_no_curves_shows_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "curves.json").write_text(content)
    assert read_curves(tmp_path) == {}


def test_an_event_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f"{EVENTS}1700000000.host.1.0"
    other.write_bytes(b"")
    for number in (1, 2):
        with followed(tmp_path, "hash", None) as told:
            told(LOSS, some(1))
        assert (tmp_path / f"{EVENTS}{number:04}").stat().st_size
    assert other.read_bytes() == b""


def test_each_curves_points_are_in_order_whatever_steps_the_curves_share(tmp_path: Path) -> None:
    with followed(tmp_path, "hash", None) as told:
        told(LOSS, some(3, 6))
        told("distill/inner_learning_rate_1", some(2, 4, 6))
    assert list(scalars(board(tmp_path), "distill/inner_learning_rate_1")) == [2, 4, 6]


def test_a_trial_that_told_nothing_leaves_nothing(tmp_path: Path) -> None:
    with followed(tmp_path, "hash", None):
        pass
    assert list(tmp_path.iterdir()) == []
    assert read_curves(tmp_path) == {}


def test_what_is_told_again_or_is_not_finite_is_no_point(tmp_path: Path) -> None:
    with followed(tmp_path, "hash", None) as told:
        told(LOSS, some(1, 2))
        told(LOSS, some(1, 2) | {3: float("nan"), 4: float("inf")} | some(5))
    assert list(scalars(board(tmp_path))) == [1, 2, 5]
    json.loads((tmp_path / "curves.json").read_text(), parse_constant=pytest.fail)


def test_they_are_written_while_the_trial_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(curves_module, "WRITE_EVERY", 0.0)
    told = TrialCurves(tmp_path, "hash")
    told(LOSS, some(1))
    assert read_curves(tmp_path)[LOSS].steps == [1]
    assert list(scalars(board(tmp_path))) == [1]


def test_an_attempt_that_goes_on_leaves_no_gap_and_no_point_twice(tmp_path: Path) -> None:
    """The first one was killed after more than its checkpoint holds, in the middle of a write."""
    killed = TrialCurves(tmp_path, "hash")
    killed(LOSS, some(1, 2, 3, 4, 5))
    killed.write()
    (events,) = tmp_path.glob(f"{EVENTS}*")
    with events.open("ab") as file:
        file.write(b"torn")
    reading = board(tmp_path)  # a TensorBoard that is open meanwhile
    assert list(scalars(reading)) == [1, 2, 3, 4, 5]
    with followed(tmp_path, "hash", None) as resumed:
        resumed(LOSS, some(1, 2, 3))
        resumed.write()
        assert list(scalars(reading.Reload())) == [1, 2, 3]
        resumed(LOSS, some(4, 5, 6))
    assert (
        scalars(reading.Reload())
        == scalars(board(tmp_path))
        == pytest.approx(some(1, 2, 3, 4, 5, 6))
    )
    assert read_curves(tmp_path)[LOSS].steps == [1, 2, 3, 4, 5, 6]


def test_an_attempt_that_ends_before_its_stages_keeps_the_curves_of_the_one_before(
    tmp_path: Path,
) -> None:
    with followed(tmp_path, "hash", None) as first:
        first("expert/policy_loss", some(1))
        first(LOSS, some(1, 2))
    with followed(tmp_path, "hash", None) as second:
        second("expert/policy_loss", some(1))
        second.end(result(outcome="FAILED"))
    assert read_curves(tmp_path)[LOSS].steps == list(scalars(board(tmp_path))) == [1, 2]
    with followed(tmp_path, "of other settings", None) as other:
        other("expert/policy_loss", some(1))
    assert list(read_curves(tmp_path)) == ["expert/policy_loss"]


def test_rungs_that_were_answered_before_are_points_once(tmp_path: Path) -> None:
    (tmp_path / ANSWERS).write_text('{"40": {"return": 7.5, "reason": null}}')
    with followed(tmp_path, "hash", None) as told:
        told("return/rung", {40: 7.5})
        told("return/rung", {120: 9.0})
    assert scalars(board(tmp_path), "return/rung") == {40: 7.5, 120: 9.0}


def test_a_folder_that_cannot_be_written_does_not_hide_how_the_attempt_ended(
    tmp_path: Path,
) -> None:
    def attempt() -> None:
        with followed(tmp_path / "gone", "", None) as told:
            told(LOSS, some(1))
            raise DivergenceError("the end")

    with pytest.raises(DivergenceError, match="the end"):
        attempt()


def plugin_data(folder: Path, tag: str) -> object:
    content = board(folder).PluginTagToContent("hparams")[tag]
    return metadata._parse_plugin_data_as(
        content,
        {
            metadata.EXPERIMENT_TAG: "experiment",
            metadata.SESSION_START_INFO_TAG: "session_start_info",
            metadata.SESSION_END_INFO_TAG: "session_end_info",
        }[tag],
    )


SEARCH = (
    "search={weighting.temperature: {type: float, low: 0.01, high: 1, log: true}, "
    "distill.synthetic_size: {type: int, low: 8, high: 64}, "
    "distill.width: {type: categorical, choices: [64, 128]}, "
    "weighting.scheme: {type: categorical, choices: [reciprocal, rank]}, "
    "expert.episodes: {type: categorical, choices: [null, [0.5, 1]]}}",
)


def test_hparams_hold_all_that_is_searched_and_the_metrics_of_the_end(tmp_path: Path) -> None:
    params = {
        "weighting.temperature": 0.25,
        "distill.synthetic_size": 32,
        "distill.width": 128,
        "weighting.scheme": "rank",
        "expert.episodes": "[0.5, 1]",
    }
    with followed(tmp_path, "hash", hparams(*SEARCH, **params)) as told:
        told.end(result(effective_sample_size_percent=12.5))
    experiment = plugin_data(tmp_path, metadata.EXPERIMENT_TAG)
    domains = {info.name: info for info in experiment.hparam_infos}
    assert set(domains) == set(params)
    assert domains["weighting.temperature"].domain_interval.min_value == 0.01
    assert domains["distill.synthetic_size"].domain_interval.max_value == 64
    texts = [v.string_value for v in domains["expert.episodes"].domain_discrete.values]
    assert sorted(texts) == ["[0.5, 1]", "null"]
    begun = plugin_data(tmp_path, metadata.SESSION_START_INFO_TAG)
    values = {
        name: value.number_value or value.string_value for name, value in begun.hparams.items()
    }
    assert values == params
    assert begun.group_name == "trial 3"
    seen = board(tmp_path)
    metrics = {info.name.tag: info.display_name for info in experiment.metric_infos}
    assert metrics["trial/normalized_return"] == "normalized_return"
    for tag, value in {
        "trial/normalized_return": 41.5,
        "trial/iqm": 40.0,
        "trial/effective_sample_size_percent": 12.5,
        "trial/seconds": 3.0,
    }.items():
        assert tag in metrics
        assert scalars(seen, tag) == {0: value}


@pytest.mark.parametrize(("outcome", "status"), [("COMPLETE", 1), ("PRUNED", 1), ("FAILED", 2)])
def test_hparams_say_how_the_trial_ended(tmp_path: Path, outcome: str, status: int) -> None:
    with followed(tmp_path, "hash", hparams()) as told:
        told(LOSS, some(1))
        told.end(result(outcome=outcome))
    assert plugin_data(tmp_path, metadata.SESSION_END_INFO_TAG).status == status
    has_score = "trial/normalized_return" in board(tmp_path).Tags()["scalars"]
    assert has_score is (outcome == "COMPLETE")


def test_a_trial_without_an_end_is_not_in_the_hparams_tab(tmp_path: Path) -> None:
    with followed(tmp_path, "hash", hparams()) as told:
        told(LOSS, some(1))
    with pytest.raises(KeyError):
        board(tmp_path).PluginTagToContent("hparams")
