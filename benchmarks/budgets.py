"""Where a study's time is best spent: rules that end trials early, at equal cost, in simulation.

    python -m benchmarks.budgets [--studies 300] [--json]

A study draws trials at random until the time of sixteen whole ones is spent, lets its best five
race, and exports the winner: what is measured is the true mean return of that. A trial's value is
normal, 50 +- 12, as in searches of the comparison; its policies return what theirs do: three in
ten fall, with a standard deviation of 18 between policies and of 10 between episodes of one, and
policies of one place share a part of their luck in all trials. At a rung, after 0.2 and 0.6 of its
distillation, a trial's value is one that correlates with the last. An evaluation of ten policies by
five episodes takes a share of a distillation's time. Nothing proposes: what a sampler makes of
returns that were cut short is left out.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import machine
from study.early_stopping import lags, survives
from study.race import POLICIES as RACING
from study.race import race

Array = NDArray[np.float64]

TRIALS, MEAN, SPREAD = 16, 50.0, 12.0
POLICIES, EPISODES = 10, 5
CASES = (((0.4, 0.7), 0.43), ((0.7, 0.9), 0.43), ((0.7, 0.9), 1.5))
"""Correlations at the rungs, and the time of an evaluation: 0.43 of a distillation's in the
quickstart, whose episodes end early; a whole episode of a thousand steps takes several times that.
"""
RUNGS = (0.2, 0.6)
BETWEEN, WITHIN = 18.0, 10.0
"""Standard deviations, in points: between policies, and between episodes of one."""
RACES = 0.1
"""Share of a study's time."""


@dataclass
class Study:
    """The random numbers of one study: all rules draw the same trials.

    Attributes:
        correlation: of a trial's value at each rung with its last.
        seed: of all that is drawn.
    """

    correlation: tuple[float, float]
    seed: int

    def value(self, trial: int) -> float:
        """A trial's true mean return."""
        return MEAN + SPREAD * float(self._drawn("value", trial).standard_normal())

    def at_rung(self, trial: int, rung: int) -> float:
        """The same of its rows as they are there."""
        alike, z = self.correlation[rung], (self.value(trial) - MEAN) / SPREAD
        own = float(self._drawn("rung", trial, rung).standard_normal())
        return 0.8 * MEAN + SPREAD * (alike * z + (1 - alike**2) ** 0.5 * own)

    def returns(self, value: float, trial: int, stream: int, policies: int, episodes: int) -> Array:
        """Mean return [K] of a trial's policies on a stream that all trials share."""
        z = 0.55 * self._drawn("shared", stream).standard_normal(policies)
        z += 0.835 * self._drawn("own", trial, stream).standard_normal(policies)
        luck = np.where(z < -0.52, -35 + 12 * z, 15 + 4 * z)
        luck = (luck - LUCK[0]) / LUCK[1]
        runs = self._drawn("episodes", trial, stream).standard_normal((policies, episodes))
        return value + BETWEEN * luck + WITHIN * runs.mean(1)

    def _drawn(self, what: str, *address: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what.encode(), *address])


def _luck() -> tuple[float, float]:
    z = np.random.default_rng(0).standard_normal(1_000_000)
    found = np.where(z < -0.52, -35 + 12 * z, 15 + 4 * z)
    return float(found.mean()), float(found.std())


LUCK = _luck()


@dataclass(frozen=True)
class Rule:
    """When a trial is ended, and how long it is judged.

    Attributes:
        rungs: of the returns [K] at a rung of a trial, of all that came by before, and of the
            incumbent: whether the trial goes on.
        at_rung: policies and episodes there.
        batch: policies that are judged at a time; a trial that lags the incumbent is judged no
            more, and one that does not by up to `most`.
    """

    rungs: Callable[[Array, list[Array], Array | None], bool] | None = None
    at_rung: tuple[int, int] = (10, 1)
    batch: int = POLICIES
    most: int = POLICIES


def ranks(own: Array, others: list[Array], incumbent: Array | None) -> bool:
    """As ASHA: whether it is among the best third."""
    values = [float(each.mean()) for each in others]
    return survives(float(own.mean()), [*values, float(own.mean())], 3)


def pairs(own: Array, others: list[Array], incumbent: Array | None) -> bool:
    """Whether it is not clearly behind the incumbent."""
    return incumbent is None or not lags(own, incumbent)


RULES = {
    "none": Rule(),
    "rungs: among the best third, 3 policies x 2": Rule(ranks, (3, 2)),
    "rungs: among the best third, 10 x 1": Rule(ranks),
    "rungs: not clearly behind the best, 10 x 1": Rule(pairs),
    "evaluation: in batches of 3, up to 10": Rule(batch=3),
    "evaluation: in batches of 5, up to 20": Rule(batch=5, most=20),
    "both: best third, and batches of 3": Rule(ranks, batch=3),
}


def exported(study: Study, rule: Rule, episode: float) -> dict[str, float]:
    """What comes of a study by a rule: the winner's value, and what led to it.

    Args:
        study: its trials.
        rule: when they are ended.
        episode: what it takes, of a distillation's time.
    """
    whole = TRIALS * (1 + POLICIES * EPISODES * episode)
    judged: dict[int, Array] = {}
    values: dict[int, float] = {}
    came: list[dict[int, Array]] = [{} for _ in RUNGS]
    trial, left = 0, whole
    while left > 0:
        incumbent = max(values, key=lambda each: values[each], default=-1)
        done, goes_on = 0.0, True
        for place, share in enumerate(RUNGS if rule.rungs else ()):
            found = study.returns(study.at_rung(trial, place), trial, 1 + place, *rule.at_rung)
            left -= share - done + np.prod(rule.at_rung) * episode
            done = share
            assert rule.rungs
            goes_on = rule.rungs(found, [*came[place].values()], came[place].get(incumbent))
            came[place][trial] = found
            if not goes_on:
                break
        if goes_on:
            policies = study.returns(study.value(trial), trial, 0, rule.most, EPISODES)
            judged[trial], values[trial] = _judged(policies, judged.get(incumbent), rule)
            left -= 1 - done + len(judged[trial]) * EPISODES * episode
        trial += 1
    top = sorted(values, key=lambda each: -values[each])[:5]
    winner = top[0]
    if len(top) > 1:

        def judge(number: int, round: int) -> Array:
            return study.returns(study.value(number), number, 10 + round, RACING, 1)

        searched = {each: (values[each], len(judged[each])) for each in top}
        winner = race(searched, judge, int(RACES * whole / (RACING * episode))).winner
    return {
        "exported": study.value(winner),
        "overstated": values[top[0]] - study.value(top[0]),
        "trials": float(trial),
        "whole": float(len(judged)),
    }


def _judged(policies: Array, incumbent: Array | None, rule: Rule) -> tuple[Array, float]:
    """The returns of the policies that are judged, and the estimate of their trial's value."""
    for count in range(rule.batch, rule.most, rule.batch):
        if incumbent is not None and lags(policies[:count], incumbent):
            pairs = min(count, len(incumbent))
            value = incumbent.mean() - (incumbent[:pairs] - policies[:pairs]).mean()
            return policies[:count], float(value)
    return policies, float(policies.mean())


def measured(
    studies: int, correlation: tuple[float, float], evaluation: float
) -> dict[str, dict[str, float]]:
    """Rule -> means over studies, and the standard error of the gain over no rule.

    Args:
        studies: how many.
        correlation: see `Study`.
        evaluation: time of ten policies by five episodes, of a distillation's.
    """
    episode = evaluation / (POLICIES * EPISODES)
    found = {
        name: [exported(Study(correlation, seed), rule, episode) for seed in range(studies)]
        for name, rule in RULES.items()
    }
    said: dict[str, dict[str, float]] = {}
    for name, each in found.items():
        means = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        pairs = zip(each, found["none"], strict=True)
        gains = np.array([one["exported"] - none["exported"] for one, none in pairs])
        error = float(gains.std(ddof=1) / len(gains) ** 0.5)
        said[name] = means | {"gain": float(gains.mean()), "error": error}
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"machine": machine.describe(torch.device("cpu")), "cases": []}
    for correlation, evaluation in CASES:
        rules = measured(arguments.studies, correlation, evaluation)
        case = {"correlation": correlation, "evaluation": evaluation, "rules": rules}
        document["cases"].append(case | {"studies": arguments.studies})
        if arguments.json:
            continue
        print(
            f"Values at the rungs correlate with the last by {correlation[0]:g} and "
            f"{correlation[1]:g}; an evaluation takes {evaluation:g} of a distillation; "
            f"{arguments.studies} studies."
        )
        for rule, said in rules.items():
            print(
                f"  {rule:<46} exported {said['exported']:.1f} ({said['gain']:+.1f} +- "
                f"{said['error']:.1f}), overstated by {said['overstated']:.1f}; "
                f"{said['trials']:.0f} trials, {said['whole']:.0f} not ended at a rung"
            )
    if arguments.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
