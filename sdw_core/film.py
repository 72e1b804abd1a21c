"""A film of policies that are cloned from exported rows: best, median and worst, and the expert.

K policies are cloned by the rows' own recipe and run for an episode each. The episodes that are
shown are played again, each by a camera of its own (`sdw_core.camera`), side by side.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import IO, Annotated, Any

import numpy as np
from imageio_ffmpeg import write_frames
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from sdw_core.artifact import Artifact
from sdw_core.camera import Pixels
from sdw_core.config import PercentBCConfig, PipelineConfig
from sdw_core.dataset.loading import available
from sdw_core.environment import Environment
from sdw_core.errors import InputError, SDWError
from sdw_core.evaluate import Act, Array, one_thread, rollout, start_of
from sdw_core.files import created_file
from sdw_core.labels import named
from sdw_core.pipeline import Pipeline
from sdw_core.style import EXPERT, INK, SYNTHETIC
from sdw_core.validation import checked

Tell = Callable[[str], None]

Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=64, le=1920)]
FRAMES_A_SECOND, SECONDS, WIDTH = 25, 8.0, 384
"""Of the film at most; of its length and of one picture's width, where no other is asked for."""
STRIP, MARGIN, LETTERS = 26, 8, 13
"""Height of a line of text, the space round it, and the size of its letters, pixels."""
GIF_FRAMES_A_SECOND, GIF_BYTES, GIF_SCALES = 8, 2_000_000, (0.75, 0.6, 0.45, 0.3)
"""Of the GIF at most; its scales, of which the first is taken that is small enough."""
POSTER = 0.4
"""Where in the film its still is taken."""
LIBRARIES = ("egl", "osmesa")
"""What draws without a display, in the order in which it is tried."""


@dataclass(frozen=True, eq=False)
class Take:
    """An episode.

    Attributes:
        name: of who acts.
        score: its normalised return.
        seed: of the environment.
        actions: [T, A], environment units.
    """

    name: str
    score: float
    seed: int
    actions: Array


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture of an episode: after how many steps, the return so far, whether it ended there."""

    step: int
    total: float
    terminated: bool
    pixels: Pixels


@dataclass(frozen=True)
class Film:
    """What was written, and who is on it.

    Attributes:
        film, poster, gif: files.
        scores: name -> normalised return of the whole episode, in the order shown.
        frames: of the film.
        frames_a_second: of the film, in the environment's own time.
        without_expert: why the expert is not shown; None if it is.
    """

    film: Path
    poster: Path
    gif: Path
    scores: dict[str, float]
    frames: int
    frames_a_second: float
    without_expert: str | None

    def to_json(self) -> dict[str, Any]:
        """What `sdw render --json` prints."""
        files = {key: str(getattr(self, key)) for key in ("film", "poster", "gif")}
        return vars(self) | files


def render(
    artifact: Artifact,
    to: Path | str,
    policies: int | None = None,
    seed: int | None = None,
    seconds: float = SECONDS,
    width: int = WIDTH,
    expert: bool = True,
    cache: Path | str | None = None,
    tell: Tell = lambda said: None,
) -> Film:
    """Film policies that are cloned from the rows, with a still and a short GIF beside the film.

    Args:
        artifact: the rows.
        to: the film's file, which ends in `.mp4`; the others end in `.png` and `.gif`.
        policies: K; None: the manifest's.
        seed: root seed; None: the manifest's, at which the policies are those of its score.
        seconds: of the environment's time, from the beginning of the episodes, at most.
        width: of one picture, pixels, where the environment can choose it.
        expert: show the rows' expert too, if its dataset is here and it is cloned from episodes.
        cache: folder of the stage cache, which may hold the expert; None keeps nothing.
        tell: what is being done.

    Raises:
        InputError: a file exists or cannot be one, a number is out of its bounds, or the
            environment cannot be drawn here.
        DivergenceError: a policy became non-finite while it was cloned.
        SDWError: the environment fails.
    """
    files = _files(checked(to, Path, "to"))
    seconds, width = checked(seconds, Seconds, "seconds"), checked(width, Width, "width")
    environment = artifact.arena.environment
    changes = {} if policies is None else {"policies": policies}
    count = artifact.evaluation(**changes).policies
    stride, rate = _pace(environment)
    library = _library(environment, width)
    tell(f"running {count} policies")
    seed = artifact.evidence["evaluation"]["seed"] if seed is None else seed
    takes, without = _shown(_policies(artifact, count, seed), artifact.ensemble), None
    if expert:
        tell("making the expert again")
        found = _expert(artifact, seed, cache)
        without = found if isinstance(found, str) else None
        takes += [found] if isinstance(found, Take) else []
    length = max(1, round(seconds * rate))
    with ExitStack() as stack:
        scratches = [stack.enter_context(_created(path)) for path in files]
        cameras = [
            stack.enter_context(_camera(environment, take, library, width, stride, length))
            for take in takes
        ]
        pictures = _composed(artifact, takes, cameras, rate)
        frames = _write(pictures, scratches, rate, lambda done: tell(f"frame {done} of {length}"))
    scores = {take.name: take.score for take in takes}
    return Film(*files, scores, frames, rate, without)


def _files(film: Path) -> tuple[Path, Path, Path]:
    """The film, its still and its GIF.

    Raises:
        InputError: the name is none of a film, its folder is missing, or one of the three exists.
    """
    if film.suffix != ".mp4":
        raise InputError(
            f"A film is written to a file that ends in `.mp4`, not to {str(film)!r}: choose "
            "another name."
        )
    if not film.resolve().parent.is_dir():
        raise InputError(
            f"A film is written into a folder that exists, and {str(film.parent)!r} does not: make "
            "the folder, or choose another."
        )
    files = film, film.with_suffix(".png"), film.with_suffix(".gif")
    for path in files:
        if os.path.lexists(path):
            _refuse_existing(path)
    return files


def _refuse_existing(path: Path) -> None:
    raise InputError(
        f"A film never overwrites, and {str(path)!r} exists: remove it, or choose another name."
    ) from None


@contextmanager
def _created(path: Path) -> Iterator[Path]:
    try:
        with created_file(path) as scratch:
            yield scratch
    except FileExistsError:
        _refuse_existing(path)


# Who is shown


def _policies(artifact: Artifact, count: int, seed: int) -> list[Take]:
    """An episode of each of K policies, the first of those that it is judged by."""
    policies = [artifact.train(seed, k) for k in range(count)]

    def act(observations: Array) -> Array:
        return np.stack([p.act(each) for p, each in zip(policies, observations, strict=True)])

    return _played(act, artifact, count, seed)


def _played(act: Act, artifact: Artifact, count: int, seed: int) -> list[Take]:
    """An episode of each of K policies, whose names are their numbers."""
    stage = artifact.evidence["evaluation"]["stage"]
    acted: list[Array] = []
    lengths = [0] * count

    def acting(observations: Array) -> Array:
        acted.append(act(observations))
        return acted[-1]

    def lasting(active: list[int], observations: Array) -> None:
        for k in active:
            lengths[k] += 1

    with one_thread():
        returns = rollout(acting, artifact.arena, count, 1, seed, stage, record=lasting)
    scores = artifact.arena.normalized(returns)[:, 0]
    actions = np.stack(acted)[:, :, 0]
    return [
        Take(str(k), float(scores[k]), start_of(seed, stage, k, 0), actions[: lengths[k], k])
        for k in range(count)
    ]


def _shown(takes: Sequence[Take], ensemble: int) -> list[Take]:
    """Best, median and worst of them, as far as they are different ones."""
    ranked = sorted(takes, key=lambda take: -take.score)
    last = len(ranked) - 1
    places = {0: "best", last // 2: "median", last: "worst"} if last > 1 else {0: "best"}
    if last == 1:
        places[1] = "worst"
    kind = named(f"of {len(ranked)}", ensemble)
    return [
        Take(f"{name} {kind}", take.score, take.seed, take.actions)
        for place, name in places.items()
        for take in [ranked[place]]
    ]


def _expert(artifact: Artifact, seed: int, cache: Path | str | None) -> Take | str:
    """An episode of the rows' expert, or why it cannot be had again.

    A manifest may come from a stranger: it decides no file that is opened and no code that is run,
    and names a dataset that lies here by its id.
    """
    source, stated = artifact.evidence["source"], artifact.evidence["config"]
    name, method = stated["dataset"], stated["expert"]["method"]
    if method != "percent_bc":
        return f"an expert of the method {method} is not made again for a film"
    if name not in {each.id for each in available()}:
        return f"no dataset of the name {name} is here"
    keys = "dataset", "reference_scores", "clip_actions", "seed", "expert"
    config = PipelineConfig(**{key: stated[key] for key in keys if key in stated})
    assert isinstance(config.expert, PercentBCConfig)
    prepared = Pipeline(config, cache).prepare()
    if prepared.dataset.content_hash != source["content_hash"]:
        return f"the dataset {name} that is here is not the one that the rows were distilled from"
    arena = prepared.arena
    act = arena.actor(lambda states: prepared.expert.actions(states[:, 0])[:, None], "cpu")
    take = _played(act, artifact, 1, seed)[0]
    return Take("expert", take.score, take.seed, take.actions)


# Their pictures


def _pace(environment: Environment) -> tuple[int, float]:
    """Steps from one picture to the next, and pictures a second, in the environment's own time.

    Raises:
        InputError: the environment does not draw itself.
    """
    with closing(environment.make()) as env:
        modes = env.metadata.get("render_modes") or []
        steps_a_second = float(env.metadata.get("render_fps") or FRAMES_A_SECOND)
    if "rgb_array" not in modes:
        offered = " and ".join(map(str, modes)) or "nothing"
        raise InputError(
            f"A film takes an environment that draws itself as `rgb_array`, and {environment} "
            f"offers {offered} among its `render_modes`: film rows of another environment, or give "
            "this one a `render` that does."
        )
    stride = max(1, round(steps_a_second / FRAMES_A_SECOND))
    return stride, steps_a_second / stride


def _library(environment: Environment, width: int) -> str:
    """What MuJoCo is to draw with: the user's MUJOCO_GL, or the first that draws here.

    Raises:
        InputError: nothing draws the environment here.
    """
    wanted = os.environ.get("MUJOCO_GL")
    nothing = Take("", 0, 0, np.zeros((0, 1), np.float32))
    reasons = []
    for library in [wanted] if wanted else LIBRARIES:
        with _camera(environment, nothing, library, width, 1, 1) as shots:
            try:
                next(shots)
            except _NotDrawn as error:
                reasons.append(f"{library}: {error}")
                if not error.by_mujoco:
                    raise InputError(
                        f"The environment {environment} cannot be drawn here ({error}): install "
                        "what it needs, or film rows of another environment."
                    ) from None
            else:
                return library
    tried = "MUJOCO_GL asks for what does not" if wanted else "neither EGL nor OSMesa does"
    raise InputError(
        f"A film takes OpenGL that draws without a display, and {tried} here "
        f"({'; '.join(reasons)}): install it, on Debian and Ubuntu with `apt install libegl1 "
        "libgl1-mesa-dri`, or set MUJOCO_GL to what draws."
    )


class _NotDrawn(Exception):
    """Why a camera has no first picture, and whether MuJoCo was to draw it."""

    def __init__(self, why: str, by_mujoco: bool) -> None:
        super().__init__(shorten(why, 100, placeholder=" ..."))
        self.by_mujoco = by_mujoco


@contextmanager
def _camera(
    environment: Environment, take: Take, library: str, width: int, stride: int, frames: int
) -> Iterator[Iterator[Shot]]:
    """The pictures of an episode, drawn by a process that ends with the block."""
    job = {
        "environment": environment.to_json(),
        "seed": take.seed,
        "actions": take.actions.tolist(),
        "width": width,
        "stride": stride,
        "frames": frames,
    }
    around = {
        "MUJOCO_GL": library,
        "SDL_VIDEODRIVER": "dummy",  # pygame, without a window
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", "sdw_core.camera"]
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env=os.environ | around,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        try:
            with suppress(BrokenPipeError), process.stdin:  # it says below why it ended
                process.stdin.write(json.dumps(job).encode() + b"\n")
            yield _shots(process.stdout, process, words, environment)
        finally:
            process.kill()


def _shots(
    pictures: IO[bytes],
    process: "subprocess.Popen[bytes]",
    words: IO[bytes],
    environment: Environment,
) -> Iterator[Shot]:
    head = pictures.readline()
    if not head:
        raise _NotDrawn(_last_words(process, words), by_mujoco=True)
    size = json.loads(head)
    if "error" in size:
        raise _NotDrawn(size["error"], size["mujoco"])
    shape = size["height"], size["width"], 3
    while line := pictures.readline():
        pixels = np.frombuffer(pictures.read(int(np.prod(shape))), np.uint8)
        if len(pixels) < np.prod(shape):  # the process was ended within a picture
            break
        yield Shot(**json.loads(line), pixels=pixels.reshape(shape))
    if process.wait():
        raise SDWError(
            f"the environment `{environment}` failed while it was drawn "
            f"({_last_words(process, words)}): correct its code, or film rows of another."
        )


def _last_words(process: "subprocess.Popen[bytes]", words: IO[bytes]) -> str:
    status = process.wait()
    words.seek(0)
    said = words.read().decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"the process that draws ended with status {status}"


# The film


def _composed(
    artifact: Artifact, takes: Sequence[Take], cameras: Sequence[Iterator[Shot]], rate: float
) -> Iterator[Image.Image]:
    """The frames: a picture of every episode, and for a second more the last ones."""
    shots = [next(camera) for camera in cameras]
    frame = _Frame(artifact, takes, shots)
    yield frame.of(shots)
    while True:
        following = [next(camera, None) for camera in cameras]
        if not any(following):
            break
        shots = [new or old for new, old in zip(following, shots, strict=True)]
        yield frame.of(shots)
    for _ in range(round(rate)):
        yield frame.of(shots)


class _Frame:
    """How a frame is laid out: a caption, pictures under their names, what the numbers are."""

    def __init__(self, artifact: Artifact, takes: Sequence[Take], shots: Sequence[Shot]) -> None:
        self._takes = takes
        self._columns = {4: 2}.get(len(takes), len(takes))
        self._height, self._width = shots[0].pixels.shape[:2]
        lines = -(-len(takes) // self._columns)
        width = self._columns * (self._width + MARGIN) + MARGIN
        height = lines * (self._height + STRIP) + 2 * STRIP + MARGIN
        self._size = width + width % 2, height + height % 2  # as the encoder needs them
        source, recipe = artifact.evidence["source"], artifact.recipe
        self._caption = (
            f"{len(artifact.observations)} synthetic rows instead of {source['transitions']:,} "
            f"transitions: {artifact.arena.environment.id}"
        )
        self._note = (
            f"Cloned in {recipe.steps} gradient steps. Whole episode: 0 is a random policy, 100 an "
            "expert."
        )

    def of(self, shots: Sequence[Shot]) -> Image.Image:
        """A frame of one shot each."""
        image = Image.new("RGB", self._size, "white")
        draw = ImageDraw.Draw(image)
        width, height = self._size
        inner = width - 2 * MARGIN
        _text(draw, (MARGIN, STRIP // 2), self._caption, inner, "lm", INK, bold=True)
        _text(draw, (MARGIN, height - STRIP // 2), self._note, inner, "lm", INK)
        for place, (take, shot) in enumerate(zip(self._takes, shots, strict=True)):
            line, column = divmod(place, self._columns)
            left = MARGIN + column * (self._width + MARGIN)
            top = STRIP + line * (self._height + STRIP)
            colour = EXPERT if take.name == "expert" else SYNTHETIC
            score = f"{take.name}: {take.score:.0f}"
            middle = top + STRIP // 2
            _text(draw, (left, middle), score, self._width * 0.6, "lm", colour, bold=True)
            so_far = f"return so far {shot.total:,.0f}"
            right = left + self._width
            _text(draw, (right, middle), so_far, self._width * 0.4, "rm", INK)
            picture = Image.fromarray(shot.pixels)
            if shot.terminated:
                picture = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.5)
            image.paste(picture, (left, top + STRIP))
            if shot.terminated:
                centre = left + self._width / 2, top + STRIP + self._height / 2
                said = f"ended at step {shot.step}"
                _text(draw, centre, said, self._width, "mm", INK, bold=True)
        return image


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    width: float,
    anchor: str,
    colour: str,
    bold: bool = False,
) -> None:
    """A line of text, in letters small enough for the width, pixels."""
    file = Path(get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' * bold}.ttf"
    font = ImageFont.truetype(str(file), LETTERS)
    if (needed := font.getlength(text)) > width:
        font = ImageFont.truetype(str(file), max(6, int(LETTERS * width / needed)))
    draw.text(at, text, colour, font, anchor)


def _write(
    pictures: Iterator[Image.Image],
    files: Sequence[Path],
    rate: float,
    progress: Callable[[int], None],
) -> int:
    """Write film, still and GIF; returns how many frames the film has."""
    film, poster, gif = files
    first = next(pictures)
    every = max(1, round(rate / GIF_FRAMES_A_SECOND))
    kept = [first]
    frames = 1
    writer = write_frames(
        str(film), first.size, fps=rate, quality=7, macro_block_size=2, output_params=["-f", "mp4"]
    )
    writer.send(None)
    writer.send(first.tobytes())
    for frames, picture in enumerate(pictures, 2):
        writer.send(picture.tobytes())
        if frames % every == 1 and len(kept) < GIF_FRAMES_A_SECOND * 2 * SECONDS:
            kept.append(picture)
        progress(frames)
    writer.close()
    kept[int(POSTER * len(kept))].save(poster, format="PNG", optimize=True)
    gif.write_bytes(_gif(kept, every / rate))
    return frames


def _gif(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """The largest GIF that is small enough, of frames that are shown so long."""
    content = b""
    for scale in GIF_SCALES:
        small = [frame.resize([round(scale * side) for side in frame.size]) for frame in frames]
        palette = small[len(small) // 2].quantize(96, Image.Quantize.MAXCOVERAGE)
        first, *others = [
            each.quantize(palette=palette, dither=Image.Dither.NONE) for each in small
        ]
        to = io.BytesIO()
        first.save(
            to,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=round(1000 * seconds),
            loop=0,
        )
        content = to.getvalue()
        if len(content) < GIF_BYTES:
            break
    return content
