"""What earlier studies found: their best configurations become the first that a new study asks.

Their values say no more than the order: none is told to the sampler, for it was found on other
data, or by another pipeline. So an earlier study may be of another dataset.
"""

import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from sdw_core.errors import InputError
from sdw_core.labels import counted
from search_spaces import StudySpec
from search_spaces.constraints import setting_at
from search_spaces.ranges import Param, param_of
from search_spaces.spec import Configuration
from study.folder import StudyFolder
from study.race import raced, ranked

logger = logging.getLogger(__name__)

BEST = 5
"""Trials of an earlier study, at most, whose configurations are asked first."""


def warmed(spec: StudySpec, studies: Sequence[Path | str], storage: Path) -> StudySpec:
    """A study that first asks for the best configurations of earlier ones, after its own.

    The best of each come first, then the second best, and so on: `BEST` of each and half of the
    new study's trials at most. A line a study is logged: which trials, and what was left out of
    them, as it is not searched here or lies outside its range here.

    Args:
        spec: the new study.
        studies: names under the storage, or paths, of earlier ones.
        storage: the folder of studies.

    Raises:
        InputError: there is no such study, or nothing that it found is searched here.
    """
    found = [_found(spec, StudyFolder.find(str(study), storage)) for study in studies]
    queue = list(spec.study.enqueue)
    params = [spec.params_of(settings) for settings in queue]
    asked: list[list[int]] = [[] for _ in found]
    room = max(1, spec.study.trials // 2)
    for place in zip_longest(*(each.configurations.items() for each in found)):
        for index, item in enumerate(place):
            if item is None or len(queue) >= room:
                continue
            number, settings = item
            if (of_trial := spec.params_of(settings)) not in params:
                params.append(of_trial)
                queue.append(settings)
                asked[index].append(number)
    for each, numbers in zip(found, asked, strict=True):
        logger.info(each.told(numbers))
    study = spec.study.model_copy(update={"enqueue": tuple(queue)})
    return spec.model_copy(update={"study": study})


class _Found:
    """What an earlier study found, as far as it is searched here.

    Attributes:
        configurations: a trial's number -> its settings, the best first.
        left_out: path -> why its value, or that of one trial, is in none of them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.configurations: dict[int, Configuration] = {}
        self.left_out: dict[str, str] = {}

    def told(self, numbers: list[int]) -> str:
        """Which of its trials are asked first, and what was left out of them, in a line."""
        which = f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        said = f"asked first: the settings of {which} of {self._name}"
        if not numbers:
            said = f"nothing of {self._name} is asked: others ask for the same, or there is no room"
        left = [f"{path} ({why})" for path, why in self.left_out.items()]
        return said + (f"; left out: {', '.join(left)}" if left else "")


def _found(spec: StudySpec, folder: StudyFolder) -> _Found:
    book = folder.book()
    numbers = _best(folder)
    if not numbers:
        raise InputError(
            f"The study {folder.name!r} has no trial whose settings could be asked first: none is "
            "the best yet; leave it out of `warm_from`."
        )
    rows, found = book.rows(), _Found(folder.name)
    here = spec.pipeline.model_dump(mode="json")
    for number in numbers:
        there = book.spec.pipeline_with(rows[number].params).model_dump(mode="json")
        settings = {}
        params: dict[str, Param] = {}
        for path in spec.order:
            if not spec.counts(path, params):
                continue
            value = setting_at(there, path)
            try:
                params[path] = param_of(path, spec.search[path], value, path)
            except InputError:
                why = "none there" if value is None else f"{value} lies outside of its range here"
                found.left_out.setdefault(path, f"trial {number}: {why}")
            else:
                settings[path] = value
        for path in rows[number].params.keys() - spec.search.keys():
            if (value := setting_at(there, path)) != setting_at(here, path):
                fixed = f"fixed at {setting_at(here, path)} here"
                found.left_out.setdefault(path, f"trial {number}: {value}, and {fixed}")
        if settings:
            found.configurations[number] = settings
    if not found.configurations:
        tried = counted(len(numbers), "best trial")
        raise InputError(
            f"Nothing that the {tried} of {folder.name!r} found lies where this study searches; "
            "leave it out of `warm_from`, or widen `search`."
        )
    return found


def _best(folder: StudyFolder) -> list[int]:
    """Numbers of the best trials; of a Pareto front those that lie evenly along it."""
    book = folder.book()
    if len(book.spec.study.objectives) == 1:
        return ranked(book, raced(folder, book), BEST)
    rows = book.rows()
    front = sorted(book.best(), key=lambda number: rows[number].values or [])
    last, count = len(front) - 1, min(BEST, len(front))
    return [front[round(place * last / max(count - 1, 1))] for place in range(count)]
