"""What a run tells of itself as it goes: right values, at the right steps, also after a stop."""

from dataclasses import replace
from itertools import chain, count, pairwise
from math import isfinite, nan
from pathlib import Path

import pytest
import torch

from sdw_core.distill import curves as distill_curves
from sdw_core.distill import state
from sdw_core.distill.loop import Visits, distill
from sdw_core.distill.stability import stretch
from sdw_core.errors import DivergenceError, StopRequested
from sdw_core.progress import POINTS, points_between
from tests.sdw_core.small import SMALL, changed, small_targets, small_task
from tests.sdw_core.told import Told


@pytest.fixture
def looks(monkeypatch) -> None:
    """At every fifth step."""
    for module in (state, distill_curves):
        monkeypatch.setattr(module, "LOOK_EVERY", 5)
    monkeypatch.setattr("sdw_core.distill.loop.LOOK_EVERY", 5)


@pytest.mark.parametrize("steps", [1, 7, POINTS, POINTS + 1, 5 * POINTS - 1, 50_000])
def test_a_curve_has_few_points_evenly_and_the_last_step(steps: int) -> None:
    points = list(points_between(0, steps, steps))
    assert len(points) <= POINTS + 1
    assert points[-1] == steps
    assert len(points) > min(steps, POINTS) / 2
    assert len({b - a for a, b in pairwise(points[:-1])}) <= 1
    parts = [list(points_between(a, min(a + 50, steps), steps)) for a in range(0, steps, 50)]
    assert list(chain(*parts)) == points


def test_the_curves_of_a_distillation_are_what_its_steps_measured(looks) -> None:
    told = Told()
    made = distill(small_task(), SMALL, 0, measured=told)
    losses = made.losses.double().mean(0)
    assert told.curves["distill/meta_loss"] == {
        step: pytest.approx(float(losses[step - 1])) for step in range(1, 13)
    }
    assert stretch(SMALL.outer_steps) > 12  # so that it is the mean of all steps until then
    assert told.curves["distill/meta_loss_smoothed"] == {
        step: pytest.approx(float(losses[:step].mean())) for step in range(1, 13)
    }
    assert set(told.curves["distill/hypergradient_norm"]) == set(range(1, 13))
    for layer in range(SMALL.layers):
        rates = told.curves[f"distill/inner_learning_rate_{layer + 1}"]
        assert list(rates) == [5, 10, 12]
        assert rates[5] != rates[10]
    assert all(pace > 0 for pace in told.curves["distill/outer_steps_per_second"].values())


def test_the_smoothed_meta_loss_is_of_the_last_stretch_only(monkeypatch) -> None:
    monkeypatch.setattr(distill_curves, "stretch", lambda steps: 3)
    told = Told()
    losses = distill(small_task(), SMALL, 0, measured=told).losses.double()
    smoothed = told.curves["distill/meta_loss_smoothed"]
    assert smoothed[2] == pytest.approx(float(losses[:, :2].mean()))
    assert smoothed[12] == pytest.approx(float(losses[:, 9:].mean()))


def test_the_norm_is_the_hypergradients_before_any_limit() -> None:
    task = small_task()
    plain = {"outer_optimizer": "sgd", "outer_momentum": 0, "outer_lr": 1.0, "averaging": 0}
    config = changed(SMALL, seeds=1, outer_steps=1, **plain)
    told, limited = Told(), Told()
    end = distill(task, config, 0, measured=told)
    distill(task, changed(config, max_gradient_norm=1e-6), 0, measured=limited)
    begun = state.State.start(task, config, 0)
    moved = torch.cat([
        (end.observations - begun.observations).flatten(),
        (end.actions - begun.actions).flatten(),
    ])  # fmt: skip
    norms = told.curves["distill/hypergradient_norm"]
    assert norms == {1: pytest.approx(float(moved.norm()), rel=1e-3)}
    assert limited.curves["distill/hypergradient_norm"] == norms


def test_a_resumed_distillation_tells_its_curves_from_the_first_step_on(
    looks, tmp_path: Path
) -> None:
    """The points of an uninterrupted run; the pace alone is of the attempt that took the steps."""
    visits = Visits(frozenset({3, 9}), lambda step, rows: rows.actions.mean()[None].clone())
    task, whole = small_task(), Told()
    distill(task, SMALL, 0, visits=_told_visits(visits, whole), measured=whole)
    first, second = Told(), Told()
    answers = iter([False] * 6 + [True])
    with pytest.raises(StopRequested):
        distill(task, SMALL, 0, None, tmp_path / "c", lambda: next(answers),
                _told_visits(visits, first), first)  # fmt: skip
    distill(task, SMALL, 0, checkpoint=tmp_path / "c",
            visits=_told_visits(visits, second), measured=second)  # fmt: skip
    assert set(first.curves["distill/meta_loss"]) == set(range(1, 8))
    for curves in (whole.curves, second.curves):
        del curves["distill/outer_steps_per_second"]
        for layer in range(1, SMALL.layers + 1):
            curves[f"distill/inner_learning_rate_{layer}"].pop(7, None)  # where it was stopped
    assert second.curves == whole.curves


def _told_visits(visits: Visits, told: Told) -> Visits:
    def found(step: int, found: torch.Tensor) -> None:
        told("found", {step: float(found)})

    return Visits(visits.steps, visits.find, visits.key, found)


def test_a_checkpoint_of_a_version_without_curves_goes_on(looks, tmp_path, monkeypatch) -> None:
    task, told = small_task(), Told()
    answers = iter([False] * 6 + [True])
    known = tuple(n for n in state._TENSORS if n not in ("norms", "looks"))
    with monkeypatch.context() as before:
        before.setattr(state, "_TENSORS", known)
        with pytest.raises(StopRequested):
            distill(task, SMALL, 0, None, tmp_path / "c", lambda: next(answers))
    distill(task, SMALL, 0, checkpoint=tmp_path / "c", measured=told)
    assert set(told.curves["distill/meta_loss"]) == set(range(1, 13))
    finite = {s for s, norm in told.curves["distill/hypergradient_norm"].items() if norm == norm}
    assert finite == set(range(8, 13))


def test_what_is_told_changes_nothing_of_the_rows(looks) -> None:
    told, silent = distill(small_task(), SMALL, 0, measured=Told()), distill(small_task(), SMALL, 0)
    assert torch.equal(told.observations, silent.observations)
    assert torch.equal(told.actions, silent.actions)


def test_the_device_is_looked_at_no_more_often_than_for_a_checkpoint(monkeypatch) -> None:
    """A value on the host is what makes a step wait for the device: none is asked for between."""
    told = Told()
    calls_at: list[int] = []
    steps = 2 * state.LOOK_EVERY + 10
    distill(
        small_task(), changed(SMALL, outer_steps=steps), 0,
        lambda fraction: calls_at.append(told.calls), measured=told,
    )  # fmt: skip
    changes = [i + 1 for i in range(1, steps) if calls_at[i] != calls_at[i - 1]]
    assert changes == [state.LOOK_EVERY, 2 * state.LOOK_EVERY, steps]


def test_a_distillation_that_diverges_has_told_its_last_finite_steps(looks) -> None:
    told, asked = Told(), count(1)

    def targets(states: torch.Tensor) -> torch.Tensor:
        return small_targets(states) if next(asked) <= 6 else torch.full_like(states[..., :3], nan)

    noisy = changed(SMALL, state_noise=0.1)
    with pytest.raises(DivergenceError, match="at outer step 7"):
        distill(replace(small_task(), targets_at=targets), noisy, 0, measured=told)
    losses = told.curves["distill/meta_loss"]
    assert [step for step, loss in losses.items() if isfinite(loss)] == [1, 2, 3, 4, 5, 6]
