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
from sdw_core.plots import draw_states, drawn, logarithmic
from sdw_core.style import PALE, SYNTHETIC
from search_spaces import StudySpec
from study.book import TrialRow
from study.curves import Curve, read_curves
from study.folder import StudyFolder
from study.outcomes import COMPLETE, read_record, read_result

CURVE, STATES, ROLLOUT = "learning-curve.png", "states.png", "rollout.png"
KINDS = (CURVE, STATES, ROLLOUT)
META_LOSS = "distill/meta_loss"


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
        trial, complete = self._folder.trial(row.number), row.outcome == COMPLETE
        there = set()
        if (trial / "curves.json").exists() or (complete and (trial / "result.json").exists()):
            there.add(CURVE)
        if complete and (trial / "rows.safetensors").exists():
            there.add(STATES)
        if row.number in rendered:
            there.add(ROLLOUT)
        return [
            ArtifactMeta(f"{row.number}-{place}", kind, "image/png", None)
            for place, kind in enumerate(KINDS)
            if kind in there
        ]

    def rendered(self) -> frozenset[int]:
        """The trials whose export holds a poster of their policies."""
        return frozenset(self._folder.exported(POSTER))

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

    def close(self) -> None:
        """Draw no more, once the picture under way is drawn.

        A thread that ends with the process while it reads HDF5 leaves a lock of h5py held, for
        which the process would wait without end.
        """
        self._drawing.acquire()

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Nothing is written here."""
        raise NotImplementedError

    def remove(self, artifact_id: str) -> None:
        """Nothing is removed here."""
        raise NotImplementedError

    def _curve(self, number: int) -> BinaryIO:
        """The meta-loss and the return of a trial's policies, by outer step."""
        folder, content = self._folder.trial(number), BytesIO()
        curves, result = read_curves(folder), read_result(folder)
        policies = {int(step): each for step, each in result.curve.items()} if result else {}
        means = curves.get("return/mean")
        if means is None:  # of an earlier version
            means = Curve(list(policies), [float(np.mean(each)) for each in policies.values()])
        with drawn(content, 8, 3.6) as figure:
            left, right = figure.subplots(1, 2)
            for name, colour in ((META_LOSS, PALE), (f"{META_LOSS}_smoothed", SYNTHETIC)):
                if name in curves:
                    left.plot(*curves[name], color=colour)
                    logarithmic(left, "y")
            left.set_title("Meta-loss: of single steps (grey), smoothed")
            for step, each in policies.items():
                right.plot([step] * len(each), each, "o", color=SYNTHETIC, alpha=0.35, markersize=4)
            right.plot(*means, "o-", color=SYNTHETIC)
            right.set_title("Normalised return: of each policy (pale), mean")
            for axes, there in ((left, META_LOSS in curves), (right, means.steps)):
                axes.set(xlabel="outer steps", xlim=(0, None))
                if not there:
                    axes.text(0.5, 0.5, "none yet", transform=axes.transAxes, ha="center")
        content.seek(0)
        return content

    def _states(self, number: int) -> BinaryIO:
        """A trial's synthetic states among the source's."""
        trial, content = self._folder.trial(number), BytesIO()
        result = read_result(trial)
        states = load_file(trial / "rows.safetensors")["observations"][result.best if result else 0]
        source = self._source(number)
        with drawn(content, 6, 4) as figure:
            draw_states(figure.subplots(), states, source)
        content.seek(0)
        return content

    def _source(self, number: int) -> NDArray[np.float32] | None:
        """Some of the normalised states of a trial's dataset; None: it cannot be read any more."""
        from sdw_core.dataset import load_dataset  # and with it torch
        from sdw_core.evidence import source_states

        record = read_record(self._folder.trials, number) or {"params": {}}
        config = self._spec.pipeline_with(record["params"])
        if config.source not in self._sources:
            try:
                dataset = load_dataset(config)
                self._sources[config.source] = source_states(dataset, config.seed)
            except (InputError, OSError):
                self._sources[config.source] = None
        return self._sources[config.source]
