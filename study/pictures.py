"""The pictures of a trial, each drawn when somebody looks at it."""

from io import BytesIO
from threading import Lock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from optuna.artifacts import ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound
from safetensors.numpy import load_file

from sdw_core.errors import InputError
from sdw_core.labels import POSTER
from sdw_core.plots import drawn
from sdw_core.style import SOURCE, SYNTHETIC
from search_spaces import StudySpec
from study.book import TrialRow
from study.folder import StudyFolder
from study.outcomes import COMPLETE, TrialResult, read_record, read_result

CURVE, STATES, ROLLOUT = "learning-curve.png", "states.png", "rollout.png"
KINDS = (CURVE, STATES, ROLLOUT)


class Pictures:
    """An artifact store of Optuna that keeps nothing: what is read from it is drawn then.

    An artifact is called `NUMBER-PLACE`: a trial's number, and a place in `KINDS`.

    Args:
        spec: the study.
        folder: where it lies.
    """

    def __init__(self, spec: StudySpec, folder: StudyFolder) -> None:
        self._spec = spec
        self._folder = folder
        self._drawing = Lock()  # matplotlib's settings are the process's
        self._sources: dict[str, NDArray[np.float32] | None] = {}

    def of(self, row: TrialRow, rendered: frozenset[int]) -> list[ArtifactMeta]:
        """What there is to see of a trial.

        Args:
            row: the trial.
            rendered: see `rendered`.
        """
        there = {CURVE, STATES} if row.outcome == COMPLETE else set()
        there |= {ROLLOUT} if row.number in rendered else set()
        return [
            ArtifactMeta(f"{row.number}-{place}", kind, "image/png", None)
            for place, kind in enumerate(KINDS)
            if kind in there
        ]

    def rendered(self) -> frozenset[int]:
        """The trials whose export holds a poster of their policies."""
        posters = self._folder.exports.glob(f"trial-*/{POSTER}")
        return frozenset(int(path.parent.name.removeprefix("trial-")) for path in posters)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """A picture, as a PNG.

        Raises:
            ArtifactNotFound: the trial left nothing to draw it from.
        """
        number, place = map(int, artifact_id.split("-"))
        try:
            if KINDS[place] == ROLLOUT:
                return (self._folder.exports / f"trial-{number}" / POSTER).open("rb")
            with self._drawing:
                return self._states(number) if KINDS[place] == STATES else self._curve(number)
        except FileNotFoundError as error:
            raise ArtifactNotFound(str(error)) from None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Nothing is written here."""
        raise NotImplementedError

    def remove(self, artifact_id: str) -> None:
        """Nothing is removed here."""
        raise NotImplementedError

    def _curve(self, number: int) -> BinaryIO:
        """The return of a trial's policies at the outer steps where it was taken."""
        result, content = self._result(number), BytesIO()
        with drawn(content, 6.4, 4) as figure:
            axes = figure.subplots()
            steps = np.array(sorted(map(int, result.curve)))
            for step in steps:
                returns = result.curve[str(step)]
                axes.plot([step] * len(returns), returns, "o", color=SYNTHETIC, alpha=0.35, ms=4)
            means = [np.mean(result.curve[str(step)]) for step in steps]
            axes.plot(steps, means, "o-", color=SYNTHETIC, ms=6)
            axes.set(xlabel="outer steps", ylabel="normalised return", xlim=(0, None))
            axes.set_title(f"Trial {number}: each policy (pale) and their mean")
            axes.grid()
        content.seek(0)
        return content

    def _states(self, number: int) -> BinaryIO:
        """A trial's synthetic states among the source's, on the source's principal directions."""
        result, content = self._result(number), BytesIO()
        trial = self._folder.trial(number)
        states = load_file(trial / "rows.safetensors")["observations"][result.best]
        source = self._source(number)
        centre, directions = principal_directions(states if source is None else source)
        with drawn(content, 6.4, 4.4) as figure:
            axes = figure.subplots()
            if source is not None:
                points = (source - centre) @ directions
                axes.scatter(
                    points[:, 0],
                    points[:, 1],
                    s=3,
                    color=SOURCE,
                    linewidths=0,
                    label="source states",
                )
            points = (states - centre) @ directions
            axes.scatter(
                points[:, 0],
                points[:, 1],
                s=18,
                color=SYNTHETIC,
                label=f"{len(states)} synthetic states",
            )
            axes.set(xlabel="first principal direction", ylabel="second")
            axes.set_title(f"Trial {number}: normalised states")
            figure.legend(loc="outside lower center", ncols=2, markerscale=2)
        content.seek(0)
        return content

    def _source(self, number: int) -> NDArray[np.float32] | None:
        """Some of the normalised states of a trial's dataset; None: it cannot be read any more."""
        from sdw_core.dataset import load_dataset  # and with it torch
        from sdw_core.evidence import source_states

        record = read_record(self._folder.path / "trials", number) or {"params": {}}
        config = self._spec.pipeline_with(record["params"])
        if config.source not in self._sources:
            try:
                dataset = load_dataset(config)
                self._sources[config.source] = source_states(dataset, config.seed)
            except (InputError, OSError):
                self._sources[config.source] = None
        return self._sources[config.source]

    def _result(self, number: int) -> TrialResult:
        result = read_result(self._folder.trial(number))
        if result is None:
            raise FileNotFoundError(f"Trial {number} left no result.")
        return result


def principal_directions(
    states: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The centre [O] of states [N, O], and the two directions [O, 2] that they vary most in."""
    centre = states.mean(axis=0)
    return centre, np.linalg.svd(states - centre, full_matrices=False)[2][:2].T
