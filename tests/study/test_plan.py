"""What a study will cost: the closed form, the times that it is made of, what is refused."""

import heapq
import json
from pathlib import Path

import numpy as np
import pytest

from sdw_core.dataset import load
from sdw_core.errors import InputError
from sdw_core.stage_keys import needs_density
from study import Study
from study.folder import StudyFolder
from study.pace import Pace, _line, episodes_of, of_study, step_of, widths_of
from study.plan import BETWEEN, Machine, drawn_from, forecast
from study.preflight import estimate
from study.search import StudySearch
from tests.study.commands import sdw
from tests.study.conftest import small_spec

DATASET = load("sdw/hopper-replay-mini-v0")
DATASETS = {"sdw/hopper-replay-mini-v0": DATASET}
WIDTHS = widths_of(DATASET)
PACE = Pace(1.0, 4.0, 6.0, 0.1, (0.01, 2e-10), 1e-10, (0.1, 0.2, 0.3), 5e-11, "made up")


TWO = Machine(2, 0, 2)


def costs(*overrides: str, machine: Machine = TWO, price: float | None = None):
    spec = small_spec(*overrides)
    drawn = drawn_from(spec)
    return forecast(spec, drawn, DATASETS, estimate(spec, DATASETS), PACE, machine, price)


def ends_at(seconds: list[float], places: int) -> float:
    """When the last of some trials ends that are begun in turn, as a place is free."""
    free = [0.0] * places
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


@pytest.mark.parametrize("places", [1, 2, 5, 16, 100])
def test_the_trials_end_when_those_of_a_queue_would(places: int) -> None:
    """The closed form, against a simulation, 200 times each."""
    document = costs("study.trials=100", machine=Machine(places, 0, places))
    trial = document["trial"]
    generator = np.random.default_rng(0)
    shortest = 2 * trial["seconds"] - trial["longest"]
    times = generator.uniform(shortest, trial["longest"], (200, 100)) + BETWEEN
    simulated = np.mean([ends_at(each.tolist(), places) for each in times])
    assert document["parts"]["trials"] == pytest.approx(simulated, rel=0.1)


def test_what_is_expected_is_the_sum_of_the_parts_and_lies_within_the_range() -> None:
    document = costs(price=2.0)
    low, expected, high = document["seconds"].values()
    assert low < expected < high
    assert expected == pytest.approx(sum(document["parts"].values()))
    trial = document["trial"]
    assert trial["seconds"] == pytest.approx(
        sum(trial[part] for part in ("prepare", "fits", "distill", "evaluate"))
    )
    assert document["core_hours"]["expected"] == pytest.approx(2 * expected / 3600)
    assert document["price"]["expected"] == pytest.approx(2.0 * expected / 3600)


def test_more_nodes_take_less_time_and_the_best_number_is_worth_its_hours() -> None:
    rows = costs("study.trials=40", "pipeline.distill.outer_steps=9000")["by_nodes"]
    assert [row["nodes"] for row in rows] == [1, 2, 4, 8, 16, 20]
    times = [row["seconds"]["expected"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert [row["guided_trials"] for row in rows] == [34, 34, 32, 24, 8, 0]
    best = costs("study.trials=40", "pipeline.distill.outer_steps=9000")["best_nodes"]
    products = {row["nodes"]: row["nodes"] * row["seconds"]["expected"] ** 2 for row in rows}
    assert products[best] == min(products.values())
    at_most = costs("study.trials=40", machine=Machine(2, 0, 2, most=3))
    assert (at_most["nodes"], at_most["trials_at_a_time"]) == (3, 6)
    assert costs("study.trials=40", "study.concurrency=1")["trials_at_a_time"] == 1


def test_what_is_not_run_costs_nothing() -> None:
    parts = costs()["parts"]
    without = costs("study.confirm=null", "study.bc_steps=0")["parts"]
    assert (without["race"], without["bc_all_data"]) == (0, 0)
    assert min(parts.values()) > 0
    anew = costs("search.expert.width={type: categorical, choices: [8, 16]}")
    assert anew["trial"]["fits"] == 10
    assert anew["parts"]["shared_stages"] == 1


def test_drawn_trials_lie_in_the_search() -> None:
    searched = (
        "search.distill.outer_lr={type: float, low: 0.001, high: 0.1, log: true}",
        "search.distill.state_noise={type: float, low: 0, high: 0.5, step: 0.25}",
    )
    spec = small_spec(*searched)
    drawn = drawn_from(spec)
    assert {config.distill.state_noise for config in drawn} == {0, 0.25, 0.5}
    assert all(0.001 <= config.distill.outer_lr <= 0.1 for config in drawn)
    sizes = {config.distill.synthetic_size for config in drawn}
    assert min(sizes) >= 8
    assert max(sizes) <= 24
    assert any(map(needs_density, drawn))
    assert drawn == drawn_from(spec)


def test_the_times_of_an_earlier_study_are_those_of_its_trials(tmp_path: Path) -> None:
    """An outer step is a line over its operations, an episode a mean."""
    folder = StudyFolder.create(small_spec("search.distill.synthetic_size.high=1024"), tmp_path)
    search, spec = StudySearch(folder.book()), folder.spec()
    for name in "abcd":
        config = spec.pipeline_with(search.suggest(name)["params"])
        stages = {
            "dataset": 0.5,
            "expert": 7.0 if name == "a" else 0.0,
            "distill": config.distill.outer_steps * (0.02 + 1e-9 * step_of(config, WIDTHS)),
            "evaluate": 0.25 * episodes_of(config),
        }
        seconds = stages["distill"] + stages["evaluate"] + 0.75
        told = {"outcome": "COMPLETE", "reason": None, "seconds": seconds, "stages": stages}
        told |= {"metrics": {"normalized_return": 1.0}}
        search.on_trial_complete(name, {"document": json.dumps(told)})
    pace = of_study(folder)
    assert pace.outer_step == pytest.approx((0.02, 1e-9))
    assert pace.episode == pytest.approx([0.25] * 3)
    assert (pace.dataset, pace.expert, pace.prepare) == pytest.approx((0.5, 7.0, 0.75))


def test_a_line_of_one_size_goes_through_the_origin() -> None:
    assert _line([(2.0, 4.0), (2.0, 8.0)]) == (0.0, 3.0)
    assert _line([]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--cpus", "0"], "`cpus` of a node must be 1 or more, not 0"),
        (["--cpus", "2", "--gpus", "-1"], "`gpus` of a node must be 0 or more, not -1"),
        (["--price", "-1"], "`price` is that of a node's hour, 0 or more, not -1.0"),
        (["--cluster", "c.yaml", "--cpus", "2"], "both are given ('c.yaml'); leave one out"),
        (["--set", "study.resources.cpu=9", "--cpus", "8"], "asks for 9 CPU, and a node has 8 CPU"),
        (["--set", "study.resources.gpu=1", "--gpus", "1", "--cpus", "1"], "torch sees none here"),
        (["--from", "nothing"], "There is no study 'nothing'"),
        (["--from", "empty"], "takes the times of COMPLETE trials, and 'empty' has none"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(
    capsys, monkeypatch, tmp_path: Path, given: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    StudyFolder.create(small_spec("study.name=empty"), tmp_path / "sdw-studies")
    status, out, err = sdw(capsys, "plan", "quickstart", *given)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.slow
def test_a_short_trial_is_timed_and_the_command_says_what_it_makes_of_it(
    capsys, monkeypatch, tmp_path: Path
) -> None:
    """Nothing is written; an expert that fails is said in a sentence."""
    monkeypatch.chdir(tmp_path)
    given = ("--cpus", "2", "--set", "pipeline.expert.width=32")
    status, out, err = sdw(capsys, "plan", "quickstart", "--json", *given)
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert min(document["parts"].values()) > 0
    assert document["timed"].startswith("a short trial on this machine")
    assert list(tmp_path.iterdir()) == []
    again = Study.plan("quickstart", ["pipeline.distill.outer_steps=4000"], cpus=2)
    assert again["trial"]["distill"] > 3 * document["trial"]["distill"]
    with pytest.raises(InputError):
        Study.plan("quickstart", ["pipeline.dataset=nothing-v0"])
