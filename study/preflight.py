"""Before the first trial: can a study run, and will it fit.

Each refusal is one sentence, and comes before anything is written.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sdw_core.config import PercentBCConfig, PipelineConfig
from sdw_core.dataset import OfflineDataset, load_datasets
from sdw_core.distill.loop import engine_bytes
from sdw_core.errors import InputError, SDWError
from sdw_core.expert.percent_bc import policy_bytes
from sdw_core.feasibility import check_fit, resolve_device
from sdw_core.identity import Inventory
from sdw_core.policy import MLP
from sdw_core.resources import available_memory, usable_cpus
from search_spaces import Choice, StudySpec
from search_spaces.spec import Resources
from study.folder import StudyFolder
from study.trackers import require_trackers

PROCESS = 700_000_000
"""Bytes of a worker beside its data and its engine: interpreter, torch, Ray, and their arenas."""
COPIES = 4
"""Of a dataset that a worker holds while it fits a density or an expert: as read, normalised, on
the device, in passing. The workers of a node share the first: see `sdw_core/dataset/kept.py`."""
FITTING = 2
"""Workers that fit at a time, where all trials share one density and one expert."""
OWN = 64
"""Bytes of a transition that a worker holds for itself: weights, densities, values."""
RECORDS = 200_000
"""Bytes of a trial's results and of Tune's and Optuna's records of it, rounded up."""
TRAINABLE = 100_000
"""Most bytes of the pickled trainable: it goes to every worker, and should carry no data."""
GB = 1e9


def require_launchable(
    spec: StudySpec, storage: Path, address: str | None
) -> tuple[dict[str, OfflineDataset], "Need"]:
    """Refuse a new study that could not run; nothing is written.

    Args:
        spec: the study.
        storage: the folder to make it in.
        address: of a Ray cluster, which is not connected to; None: this machine.

    Returns:
        The datasets that its search can reach, as `check_study` does, and what it needs.

    Raises:
        InputError: nothing is searched, its settings do not fit, the study exists, or there is no
            room for it.
    """
    if not spec.search:
        raise InputError(
            "`search` is empty, so that all trials would be the same; name what to search, or run "
            "the pipeline once with `sdw distill`."
        )
    datasets = check_study(spec)
    need = estimate(spec, datasets)
    require_room(spec, need, storage / spec.study.name, on_this_machine=address is None)
    StudyFolder.require_free(spec, storage)
    return datasets, need


def require_runnable(
    folder: StudyFolder, address: str | None, more: int = 0
) -> dict[str, OfflineDataset]:
    """Refuse a study that could not go on, or not with more trials; nothing is written.

    Args:
        folder: the study.
        address: as for `require_launchable`.
        more: how many trials are to be added.

    Returns:
        The datasets that its search can reach, as `check_study` does; none if nothing is left.

    Raises:
        InputError: its settings do not fit, or there is no room for what is left of it.
        SourceChanged: its data, checkpoints or method are not what they were.
    """
    todo = folder.book(to_write=True).remaining() + more
    if not todo:
        return {}
    spec = folder.spec()
    datasets = check_study(spec)
    folder.require_same_sources(Inventory.of(spec.reaching(), datasets))
    if not folder.driven():
        need = estimate(spec, datasets, todo)
        here = address is None and not folder.job()
        require_room(spec, need, folder.path, on_this_machine=here)
    return datasets


def check_study(spec: StudySpec) -> dict[str, OfflineDataset]:
    """Refuse a study whose settings do not fit its data; nothing is written.

    Returns:
        `PipelineConfig.source` -> dataset, of all that the search can reach.

    Raises:
        InputError: a dataset is not there, or settings do not fit it, or there is no such GPU, or a
            tracker's package is not installed.
    """
    require_trackers(spec)
    reached = [*spec.reaching(), *spec.extremes()]
    datasets = load_datasets([spec.pipeline, *reached])
    for config in reached:
        check_fit(config, datasets[config.source])
        if not spec.study.resources.gpu:
            resolve_device(config.device)
    return datasets


@dataclass(frozen=True)
class Need:
    """What a study needs, in bytes, at the largest settings that its search can reach.

    Attributes:
        disk_per_trial: what a finished trial leaves.
        disk: of the whole study, with its stage cache and the checkpoints of running trials.
        memory_per_trial: of a worker that is alone on its node.
        memory: of the workers that run at a time on this machine.
        gpu_memory_per_trial: of a worker on a GPU; 0 where trials take none.
        trials_at_a_time: on this machine.
    """

    disk_per_trial: int
    disk: int
    memory_per_trial: int
    memory: int
    gpu_memory_per_trial: int
    trials_at_a_time: int


def estimate(
    spec: StudySpec, datasets: Mapping[str, OfflineDataset], trials: int | None = None
) -> Need:
    """What a study needs, whichever of its datasets takes most.

    Args:
        spec: the study.
        datasets: all that its search can reach, by `PipelineConfig.source`.
        trials: how many are to run; None: as many as the spec says.
    """
    todo = spec.study.trials if trials is None else trials
    each = [asdict(_estimate_on(dataset, spec, todo)) for dataset in datasets.values()]
    return Need(**{name: max(need[name] for need in each) for name in each[0]})


def plan(
    spec: StudySpec, datasets: Mapping[str, OfflineDataset], need: Need, warnings: list[str]
) -> dict[str, Any]:
    """What a study would run, as `sdw validate --json` prints it.

    Args:
        spec: the study.
        datasets: all that its search can reach, by `PipelineConfig.source`.
        need: what it needs.
        warnings: of its datasets.
    """
    dataset = datasets[spec.pipeline.source]
    return {
        "study": spec.study.model_dump(mode="json"),
        "dataset": {
            "name": dataset.name,
            "environment": str(dataset.environment),
            "episodes": len(dataset.episode_ends),
            "transitions": len(dataset),
        },
        "search": {path: d.model_dump(mode="json") for path, d in spec.search.items()},
        "pipeline": spec.pipeline.model_dump(mode="json"),
        "estimate": asdict(need),
        "cluster": None,
        "cluster_for": None,
        "cluster_holds": None,
        "warnings": warnings,
    }


def _estimate_on(dataset: OfflineDataset, spec: StudySpec, todo: int) -> Need:
    config = largest(spec, dataset)
    distill, states, actions = config.distill, dataset.observations, dataset.actions
    width = states.shape[1] + actions.shape[1]
    row_bytes = 4 * distill.seeds * distill.synthetic_size * width
    losses = 4 * distill.seeds * distill.outer_steps
    data = 4 * len(dataset) * (2 * width + 4)
    kept, worked_on = _network_bytes(config, dataset)
    at_a_time = min(_trials_at_a_time(spec), max(todo, 1))
    per_trial = row_bytes + losses + RECORDS
    checkpoint = 2 * (4 * row_bytes + 2 * losses)  # rows, averages, moments, norms; old and new
    stages = 4 * len(dataset) * (actions.shape[1] + 2) + kept
    judged = 4 * len(dataset) * (actions.shape[1] + 1) * bool(spec.study.bc_steps)
    fitted_anew = fits_anew(spec)
    on_gpu = bool(spec.study.resources.gpu)
    process = PROCESS + (0 if on_gpu else worked_on)
    fitting = at_a_time if fitted_anew else min(at_a_time, FITTING)
    return Need(
        disk_per_trial=per_trial,
        disk=todo * per_trial
        + at_a_time * checkpoint
        + data
        + stages * (todo if fitted_anew else 1)
        + judged,
        memory_per_trial=process + COPIES * data,
        memory=at_a_time * process
        + data
        + fitting * (COPIES - 1) * data
        + (at_a_time - fitting) * OWN * len(dataset),
        gpu_memory_per_trial=data + worked_on if on_gpu else 0,
        trials_at_a_time=at_a_time,
    )


def fits_anew(spec: StudySpec) -> bool:
    """Whether each trial fits a density and an expert of its own, as far as can be foreseen."""
    return any(path.startswith(("density.", "expert.", "seed")) for path in spec.search)


def largest(spec: StudySpec, dataset: OfflineDataset) -> PipelineConfig:
    """The settings within a search whose networks take most memory."""
    params = {
        path: distribution.choices[0] if isinstance(distribution, Choice) else distribution.high
        for path, distribution in spec.search.items()
    }
    for path, distribution in spec.search.items():
        if isinstance(distribution, Choice):
            configs = {
                choice: spec.pipeline_with(params | {path: choice})
                for choice in distribution.choices
            }
            params[path] = max(configs, key=lambda c: _network_bytes(configs[c], dataset)[1])
    return spec.pipeline_with(params)


def _network_bytes(config: PipelineConfig, dataset: OfflineDataset) -> tuple[int, int]:
    """Bytes of the expert's networks in the stage cache; and of all that a worker trains."""
    sizes = dataset.observations.shape[1], dataset.actions.shape[1]
    policy = MLP.build(*sizes, config.distill.layers, config.distill.width)
    kept, trained = 0, 0
    if isinstance(config.expert, PercentBCConfig):
        kept, trained = policy_bytes(config.expert, *sizes)
    return kept, engine_bytes(config.distill, policy) + trained


def _trials_at_a_time(spec: StudySpec) -> int:
    """Trials that run together on this machine, if it holds any."""
    fits = max(1, room_for(spec.study.resources, usable_cpus(), torch.cuda.device_count()))
    return fits if spec.study.concurrency == "auto" else min(fits, spec.study.concurrency)


def room_for(resources: Resources, cpus: float, gpus: float) -> int:
    """Trials at a time that so many cores and GPUs of one node hold; a share is of one GPU."""
    fits, share = int(cpus // resources.cpu), resources.gpu
    if not share:
        return fits
    return min(fits, int(gpus) * int(1 / share + 1e-9) if share < 1 else int(gpus // share))


def require_resources(resources: Resources, section: str) -> None:
    """Refuse trials, or cells, of which this machine cannot hold one: Ray would wait for ever.

    Args:
        resources: of one.
        section: of the spec, that states them.

    Raises:
        InputError: there are too few cores or GPUs.
    """
    cpus, gpus = usable_cpus(), torch.cuda.device_count()
    if room_for(resources, cpus, gpus) < 1:
        raise InputError(
            f"`{section}.resources` asks for {resources.cpu} CPU and {resources.gpu:g} GPU at a "
            f"time, and this process may use {cpus} CPU and {gpus} GPU; lower them, or give the "
            "`address` of a cluster."
        )


def require_room(spec: StudySpec, need: Need, folder: Path, on_this_machine: bool) -> None:
    """Refuse a study that the storage, or this machine's cores, memory or GPUs cannot hold.

    Args:
        spec: the study.
        need: its estimate.
        folder: where it is or will be; nothing is made there.
        on_this_machine: whether its trials run here.

    Raises:
        InputError: the study does not fit, or the folder cannot be written.
    """
    there = check_writable(folder, "storage")
    free = shutil.disk_usage(there).free
    if need.disk > free:
        raise InputError(
            f"The study needs about {need.disk / GB:.3g} GB of disk in {str(there)!r} and "
            f"{free / GB:.3g} GB are free; make room, lower `study.trials`, or choose another "
            "`storage`."
        )
    if not on_this_machine:
        return
    require_resources(spec.study.resources, "study")
    memory = available_memory()
    if need.memory > memory:
        raise InputError(
            f"{need.trials_at_a_time} trials at a time need about {need.memory / GB:.3g} GB of "
            f"memory and {memory / GB:.3g} GB are free; lower `study.concurrency`, "
            "`pipeline.distill.window`, `pipeline.distill.seeds`, `pipeline.expert.ensemble` or "
            "the sizes that are searched."
        )
    if need.gpu_memory_per_trial and torch.cuda.is_available():
        share = min(1.0, spec.study.resources.gpu)
        held = torch.cuda.mem_get_info()[0]
        if need.gpu_memory_per_trial > share * held:
            raise InputError(
                f"A trial needs about {need.gpu_memory_per_trial / GB:.3g} GB on the GPU and its "
                f"share of {share:g} is {share * held / GB:.3g} GB; raise `study.resources.gpu`, "
                "or lower `pipeline.distill.window`, `pipeline.distill.seeds`, "
                "`pipeline.expert.ensemble` or the sizes that are searched."
            )


def check_writable(folder: Path, argument: str) -> Path:
    """Refuse a folder that cannot be written, or made; nothing is made.

    Args:
        folder: which need not exist.
        argument: of a call or a command, that names another.

    Returns:
        The folder, or the nearest above it that exists.

    Raises:
        InputError: the folder cannot be written, or made.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    trouble = storage_trouble(there)
    if trouble:
        raise InputError(
            f"The folder {str(there)!r} cannot be written ({trouble}); make room or make it "
            f"writable, or choose another `{argument}`."
        )
    return there


def storage_trouble(folder: Path) -> str | None:
    """Why a folder cannot be written, or None: a file of 1 MB is tried, and leaves nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1_000_000))
            file.flush()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def require_light(trainable: object) -> None:
    """Refuse a trainable that drags data along: it is pickled for every worker.

    Raises:
        SDWError: the trainable is larger than `TRAINABLE`.
    """
    from ray import cloudpickle

    size = len(cloudpickle.dumps(trainable))
    if size > TRAINABLE:
        raise SDWError(
            f"The trainable takes {size} bytes pickled, and {TRAINABLE} at most are sent to "
            "workers; let it read its data from the study's folder."
        )
