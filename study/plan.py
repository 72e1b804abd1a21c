"""What a study will cost: wall time, hours of cores and GPUs, price, disk, and how many nodes.

The times of a short trial, or of an earlier study's (`study/pace.py`), are scaled by the operations
of trials that are drawn from the search, and put together in closed form. With W places, N trials
of t seconds each in the mean, and of which the longest takes m,

    wall time = start + shared stages + trials + race + judging + cloning
    trials    = (N t + (W - 1) t / 2) / W, but m at least, and m ceil(N / W) at most

for trials that end in no order leave half a trial's time free in each of the other places, at the
end. The race, the judging of the winner and the cloning of all data follow the trials.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any

import torch

from sdw_core.baselines import bc_on_all_data
from sdw_core.config import PercentBCConfig, PipelineConfig
from sdw_core.dataset import OfflineDataset
from sdw_core.errors import InputError
from sdw_core.expert import percent_bc
from sdw_core.labels import processors
from sdw_core.resources import usable_cpus
from sdw_core.seeds import numpy_generator
from sdw_core.stage_keys import needs_density
from search_spaces import Choice, StudySpec
from search_spaces.ranges import Distribution, IntRange
from search_spaces.spec import Resources
from study.cluster import NodeType
from study.folder import StudyFolder
from study.manifests import read_cluster
from study.pace import (
    BETWEEN_HOURS,
    Pace,
    Widths,
    cloning_of,
    episodes_of,
    measured,
    of_study,
    step_of,
    widths_of,
)
from study.preflight import Need, check_study, estimate, fits_anew, room_for
from study.race import races

START = 10.0
"""Seconds until the first trials begin, most of them Ray's: `python -m benchmarks.overhead`."""
BETWEEN = 0.3
"""Seconds between two trials of a place: `python -m benchmarks.cluster --parts utilisation`."""
END = 5.0
"""Seconds of the export and the report."""
RANDOM = 0.3
"""How long episodes of policies of random rows are, in parts of those of a trial's."""
DRAWN = 64
"""Trials that are drawn from a search."""
BOUNDS = ("low", "expected", "high")


@dataclass(frozen=True)
class Machine:
    """A node that trials are to run on.

    Attributes:
        cpu, gpu: cores and GPUs.
        places: trials that it holds at a time.
        most: nodes that there may be; None: as many as one likes.
    """

    cpu: float
    gpu: float
    places: int
    most: int | None = None


def machine_of(
    resources: Resources, memory: int, cpus: int | None, gpus: int | None, cluster: Path | None
) -> Machine:
    """What trials are to run on: as is said, or else this machine.

    Args:
        resources: of a trial.
        memory: bytes of a trial.
        cpus, gpus: of a node.
        cluster: a file that describes one.

    Raises:
        InputError: a node holds no trial, or the file does not say what it has.
    """
    if cluster:
        return _of_cluster(resources, memory, cluster)
    cpu = usable_cpus() if cpus is None else cpus
    gpu = gpus if gpus is not None else torch.cuda.device_count() if cpus is None else 0
    places = room_for(resources, cpu, gpu)
    if not places:
        raise InputError(
            f"`study.resources` asks for {processors(resources.cpu, resources.gpu or None)}, and a "
            f"node has {processors(cpu, gpu if resources.gpu else None)}; lower them, or give the "
            "`cpus` and `gpus` of a larger one."
        )
    return Machine(cpu, gpu, places)


def _of_cluster(resources: Resources, memory: int, path: Path) -> Machine:
    described = read_cluster(path)
    described.require_fit(resources, memory)

    def places(kind: NodeType) -> int:
        return kind.room(resources, memory) or 0

    kind = max((each for each in described.workers if each.most), key=places, default=None)
    if kind is None or kind.cpu is None or not places(kind):
        raise InputError(
            f"{described.what} does not say what its workers have; give the `cpus` and `gpus` of "
            "one instead of the file."
        )
    most = kind.most if described.most is None else min(kind.most, described.most)
    return Machine(kind.cpu, kind.gpu or 0, places(kind), most)


def planned(
    spec: StudySpec,
    cpus: int | None = None,
    gpus: int | None = None,
    cluster: Path | None = None,
    price: float | None = None,
    earlier: StudyFolder | None = None,
) -> dict[str, Any]:
    """The document of `sdw plan --json`.

    Args:
        spec: the study.
        cpus, gpus, cluster: see `machine_of`.
        price: of a node's hour.
        earlier: a study whose trials' times are taken; None: a short trial is timed here.

    Raises:
        InputError: the settings do not fit, or a trial cannot be timed or placed.
        SDWError: the short trial failed.
    """
    _require_sensible(cpus, gpus, cluster, price)
    datasets = check_study(spec)
    need = estimate(spec, datasets)
    machine = machine_of(spec.study.resources, need.memory_per_trial, cpus, gpus, cluster)
    widths = widths_of(datasets[spec.pipeline.source])
    drawn = drawn_from(spec)
    pace = of_study(earlier) if earlier else _measured(spec, drawn, widths, machine)
    return forecast(spec, drawn, datasets, need, pace, machine, price)


def _require_sensible(
    cpus: int | None, gpus: int | None, cluster: Path | None, price: float | None
) -> None:
    """Refuse what is no node, or no price; see `planned`."""
    if cluster and (cpus is not None or gpus is not None):
        raise InputError(
            "A plan is for the nodes of a cluster's file or for nodes of `cpus` and `gpus`, and "
            f"both are given ({str(cluster)!r}); leave one out."
        )
    if cpus is not None and cpus < 1:
        raise InputError(f"`cpus` of a node must be 1 or more, not {cpus}; give one's cores.")
    if gpus is not None and gpus < 0:
        raise InputError(f"`gpus` of a node must be 0 or more, not {gpus}; give one's GPUs.")
    if price is not None and not 0 <= price < inf:
        raise InputError(
            f"`price` is that of a node's hour, 0 or more, not {price}; give it, or leave it out."
        )


def drawn_from(spec: StudySpec) -> list[PipelineConfig]:
    """Settings of trials, drawn from the search."""
    generator = numpy_generator(spec.study.seed, "plan")
    configs = []
    for _ in range(DRAWN if spec.search else 1):
        params: dict[str, Any] = {}
        for path in spec.order:
            if spec.counts(path, params):
                params[path] = _value(spec.search[path], generator.random())
        configs.append(spec.pipeline_with(params))
    return configs


def _value(distribution: Distribution, at: float) -> Any:
    """A value at a part of the way through a searched range."""
    if isinstance(distribution, Choice):
        return distribution.params[int(at * len(distribution.params))]
    low, high = float(distribution.low), float(distribution.high)
    value = low * (high / low) ** at if distribution.log else low + at * (high - low)
    if step := distribution.step if not distribution.log else None:
        value = low + step * round((value - low) / step)
    return round(value) if isinstance(distribution, IntRange) else min(value, high)


def _measured(
    spec: StudySpec, drawn: Sequence[PipelineConfig], widths: Widths, machine: Machine
) -> Pace:
    resources = spec.study.resources
    if resources.gpu and not torch.cuda.is_available():
        raise InputError(
            "A trial that takes a GPU is timed on a machine that has one, and torch sees none "
            "here; give the plan there, or the times of an earlier study as `from_study`."
        )
    base = next((config for config in drawn if needs_density(config)), drawn[0])
    by_cost = sorted(drawn, key=lambda config: step_of(config, widths))
    beside = min(machine.places, spec.study.trials, max(1, usable_cpus() // resources.cpu))
    return measured([base, by_cost[0], by_cost[-1]], resources.cpu, beside)


def forecast(
    spec: StudySpec,
    drawn: Sequence[PipelineConfig],
    datasets: Mapping[str, OfflineDataset],
    need: Need,
    pace: Pace,
    machine: Machine,
    price: float | None,
) -> dict[str, Any]:
    """A study's cost, of the times of what it is made of; see the module and `planned`."""
    widths = widths_of(datasets[spec.pipeline.source])
    bounds = [Forecast(spec, drawn, widths, pace, index) for index in range(len(BOUNDS))]
    most = ceil(spec.study.trials / machine.places)
    most = min(most, machine.most or most)
    choices = sorted({*(2**power for power in range(most.bit_length())), most})
    rows = [_with(nodes, bounds, machine, price) for nodes in choices]
    best = min(rows, key=lambda row: row["nodes"] * row["seconds"]["expected"] ** 2)
    chosen = rows[-1] if machine.most else rows[0]
    return {
        "study": spec.study.name,
        "trials": spec.study.trials,
        "timed": pace.of,
        "node": {"cpu": machine.cpu, "gpu": machine.gpu, "trials_at_a_time": machine.places},
        **chosen,
        "parts": bounds[1].parts(chosen["trials_at_a_time"]),
        "trial": bounds[1].trial,
        "disk": need.disk,
        "memory_per_trial": need.memory_per_trial,
        "by_nodes": rows,
        "best_nodes": best["nodes"],
    }


def _with(
    nodes: int, bounds: Sequence["Forecast"], machine: Machine, price: float | None
) -> dict[str, Any]:
    """What so many nodes take."""
    spec = bounds[0].spec
    places = min(nodes * machine.places, spec.study.trials)
    if isinstance(spec.study.concurrency, int):
        places = min(places, spec.study.concurrency)
    seconds = [sum(each.parts(places).values()) for each in bounds]
    seconds[0] *= 1 - BETWEEN_HOURS
    seconds[-1] *= 1 + BETWEEN_HOURS
    hours = [nodes * each / 3600 for each in seconds]
    return {
        "nodes": nodes,
        "trials_at_a_time": places,
        "guided_trials": max(0, spec.study.trials - max(places, spec.study.startup_trials)),
        "seconds": _range(seconds),
        "core_hours": _range([machine.cpu * each for each in hours]),
        "gpu_hours": _range([machine.gpu * each for each in hours]),
        "price": None if price is None else _range([price * each for each in hours]),
    }


def _range(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(BOUNDS, values, strict=True))


class Forecast:
    """A study's seconds, with episodes of one length.

    Attributes:
        trial: the seconds of a trial in the mean over the search: `prepare` (the stages that are
            shared, once they are kept), `fits` (those that are not shared), `distill`, `evaluate`,
            their sum, and the longest sum.

    Args:
        spec: the study.
        drawn: settings of its trials.
        widths: of its dataset.
        pace: of its trials.
        index: in `BOUNDS`.
    """

    def __init__(
        self,
        spec: StudySpec,
        drawn: Sequence[PipelineConfig],
        widths: Widths,
        pace: Pace,
        index: int,
    ) -> None:
        self.spec = spec
        self._widths, self._pace = widths, pace
        self._episode = pace.episode[index]
        self._density = pace.density * any(map(needs_density, drawn))
        self._anew = fits_anew(spec)
        each = [self._parts_of(config) for config in drawn]
        totals = [sum(parts.values()) for parts in each]
        self.trial = {name: sum(parts[name] for parts in each) / len(each) for name in each[0]}
        self.trial |= {"seconds": sum(totals) / len(totals), "longest": max(totals)}
        self._drawn = drawn

    def _parts_of(self, config: PipelineConfig) -> dict[str, float]:
        constant, slope = self._pace.outer_step
        return {
            "prepare": self._pace.prepare,
            "fits": (self._density + self._pace.expert) * self._anew,
            "distill": config.distill.outer_steps
            * (constant + slope * step_of(config, self._widths)),
            "evaluate": self._judged(config, episodes_of(config)),
        }

    def _judged(self, config: PipelineConfig, episodes: float, each: int | None = None) -> float:
        """Seconds of so many episodes, of freshly cloned policies that run `each` of them."""
        evaluation = config.evaluation
        cloning = cloning_of(config, self._widths) / config.distill.seeds / evaluation.policies
        policies = episodes / (each or evaluation.episodes)
        return self._pace.clone * cloning * policies + self._episode * episodes

    def _race(self, trials: float) -> float:
        """Seconds of the race, whose trials' policies run an episode each."""
        confirm = self.spec.study.confirm
        if confirm is None or not races(self.spec):
            return 0.0
        if confirm.budget <= 1:
            return confirm.budget * trials
        return self._mean(lambda config: self._judged(config, confirm.budget, each=1))

    def _judging(self) -> float:
        """Seconds of judging the winner's rows, and random ones, whose policies fall early."""

        def judged(config: PipelineConfig) -> float:
            size = config.evaluation.policies * config.evaluation.episodes
            return self._judged(config, (1 + RANDOM) * size)

        return self._mean(judged)

    def _all_data(self) -> float:
        """Seconds of cloning all the data and of judging that policy."""
        steps, config = self.spec.study.bc_steps, self.spec.pipeline
        if not steps:
            return 0.0
        expert = bc_on_all_data(config, config.expert, steps).expert
        assert isinstance(expert, PercentBCConfig)
        a_operation = self._pace.training or self._pace.outer_step[1]
        size = config.evaluation.policies * config.evaluation.episodes
        return a_operation * percent_bc.operations(expert, *self._widths) + self._episode * size

    def _mean(self, of: Callable[[PipelineConfig], float]) -> float:
        return sum(map(of, self._drawn)) / len(self._drawn)

    def parts(self, places: int) -> dict[str, float]:
        """Seconds of a study's parts, with so many trials at a time."""
        count, trial = self.spec.study.trials, self.trial["seconds"] + BETWEEN
        fits = [] if self._anew else [self._density, self._pace.expert]
        shared = self._pace.dataset + (max([0.0, *fits]) if places > 1 else sum(fits))
        spread = (count * trial + (places - 1) * trial / 2) / places
        longest = self.trial["longest"] + BETWEEN
        trials = max(longest, min(spread, longest * ceil(count / places)))
        return {
            "start": START,
            "shared_stages": shared,
            "trials": trials,
            "race": self._race(trials),
            "judging": self._judging(),
            "bc_all_data": self._all_data(),
            "end": END,
        }
