"""Films of exported rows: who is shown, what is written, and what is refused before any work."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image

from sdw_core.artifact import CONFIRM, Artifact, read_artifact, score, write_artifact
from sdw_core.config import PercentBCConfig, PipelineConfig
from sdw_core.dataset import load
from sdw_core.environment import Environment
from sdw_core.errors import InputError, SDWError
from sdw_core.evaluate import Arena, Recipe
from sdw_core.film import Film, Take, _files, _gif, _library, _shots, _shown, render
from sdw_core.labels import FILM, GIF, POSTER
from sdw_core.units import Units

EXPERT = PercentBCConfig(layers=2, width=16, steps=20, value_steps=1)
BUNDLED = "sdw/hopper-replay-mini-v0"


class Dot(gymnasium.Env[Any, Any]):
    """A point that is pushed, and draws itself as one pixel, without any library."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, broken: str = "") -> None:
        self.render_mode, self._broken = render_mode, broken
        self.observation_space = Box(-9, 9, (2,), np.float32)
        self.action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._at, self._step = self.np_random.uniform(-1, 1), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._at += 0.1 * float(action[0])
        self._step += 1
        return self._seen(), 1 + self._at, self._at > 1.2, False, {}

    def render(self) -> Any:
        if self._broken == "draw" or (self._broken == "later" and self._step):
            raise RuntimeError("no ink")
        if self._broken == "die":
            os._exit(7)
        print("a word of the environment")
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[20, int(np.clip(30 + 9 * self._at, 0, 59))] = 255
        return pixels

    def _seen(self) -> Any:
        return np.array([self._at, self._step / 40], np.float32)


class Hidden(Dot):
    """One that draws nothing."""

    metadata = {"render_modes": ["human"]}  # noqa: RUF012


for name, kind in {"FilmDot-v0": Dot, "FilmHidden-v0": Hidden}.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, f"{__name__}:{kind.__name__}", max_episode_steps=40)


def rows(environment: Environment, policies: int = 5) -> Artifact:
    """Random rows, with the evidence that an export has."""
    spaces = environment.spaces
    size, actions = spaces.observations, len(spaces.action_low)
    units = Units(np.zeros(size, np.float32), np.ones(size, np.float32),
                  spaces.action_low, spaces.action_high)  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    stated = {"policies": policies, "episodes": 1, "seed": 4, "stage": CONFIRM}
    evidence: dict[str, Any] = {
        "source": {"name": BUNDLED, "content_hash": "ab" * 32, "episodes": 9, "transitions": 12345},
        "config": PipelineConfig(dataset=BUNDLED, expert=EXPERT).model_dump(mode="json"),
        "distillation_seed": 0,
        "evaluation": stated,
        "scores": {},
    }
    artifact = Artifact.distilled(
        torch.randn(6, size, generator=generator),
        torch.randn(6, actions, generator=generator),
        Arena(environment, units, (0.0, 60.0)),
        Recipe(2, 16, 30, (0.3, 0.3)),
        evidence,
    )
    found = score(artifact.evaluate(), 4)
    evidence["scores"] |= dict.fromkeys(("synthetic", "random_subset", "expert"), found)
    return artifact


def dot(**kwargs: Any) -> Environment:
    """The point, as a process finds it that knows no test."""
    return Environment(f"{__name__}:FilmDot-v0", kwargs, 40)


# Who is shown


def takes(*scores: float) -> list[Take]:
    return [Take(str(k), s, k, np.zeros((1, 1), np.float32)) for k, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ([5.0], {"best of 1": 5.0}),
        ([1.0, 2.0], {"best of 2": 2.0, "worst of 2": 1.0}),
        ([3.0, 9.0, 1.0], {"best of 3": 9.0, "median of 3": 3.0, "worst of 3": 1.0}),
        ([4.0, 3.0, 2.0, 1.0], {"best of 4": 4.0, "median of 4": 3.0, "worst of 4": 1.0}),
        ([2.0] * 5, {"best of 5": 2.0, "median of 5": 2.0, "worst of 5": 2.0}),
    ],
)
def test_best_median_and_worst_are_shown_as_far_as_there_are_any(
    scores: list[float], shown: dict[str, float]
) -> None:
    found = _shown(takes(*scores), 1)
    assert {take.name: take.score for take in found} == shown
    assert len({take.seed for take in found}) == len(found)


def test_ensembles_are_named() -> None:
    assert _shown(takes(1.0), 10)[0].name == "best of 1, ensembles of 10"


# What is refused


def test_a_film_never_overwrites_and_makes_no_folder(tmp_path: Path) -> None:
    for there in (FILM, POSTER, GIF):
        (tmp_path / there).touch()
        with pytest.raises(InputError, match=f"never overwrites, and .*{there}' exists"):
            _files(tmp_path / FILM)
        (tmp_path / there).unlink()
    with pytest.raises(InputError, match=r"ends in `.mp4`, not to 'film.gif'"):
        _files(Path("film.gif"))
    with pytest.raises(InputError, match="into a folder that exists"):
        _files(tmp_path / "missing" / FILM)
    assert not list(tmp_path.iterdir())


def test_an_environment_that_does_not_draw_itself_is_refused(tmp_path: Path) -> None:
    hidden = rows(Environment("FilmHidden-v0", {}, 40))
    with pytest.raises(InputError, match=r"`rgb_array`, and FilmHidden-v0 offers human among"):
        render(hidden, tmp_path / FILM)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [({"seconds": 0}, "`seconds` must be"), ({"width": 8}, "`width` must be at least 64, not 8"),
     ({"policies": 0}, "policies"), ({"to": 3}, "`to` must be")],
)  # fmt: skip
def test_a_number_out_of_its_bounds_is_refused(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        render(rows(dot()), **{"to": tmp_path / FILM, "expert": False} | given)


def test_a_gif_is_made_small_enough() -> None:
    generator = np.random.default_rng(0)
    noise = [Image.fromarray(generator.integers(256, size=(400, 500, 3), dtype=np.uint8))
             for _ in range(40)]  # fmt: skip
    content = _gif(noise, 0.12)
    assert len(content) < 2_000_000
    made = Image.open(io.BytesIO(content))
    assert made.n_frames == 40
    assert made.size == (225, 180)  # larger ones were too much


# Films


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Film, list[str]]:
    """A film of the point, which any machine can draw."""
    artifact, told = rows(dot()), list[str]()
    to = tmp_path_factory.mktemp("films") / "a.film.mp4"
    return artifact, render(artifact, to, seconds=0.5, tell=told.append), told


@pytest.mark.slow
def test_a_film_shows_the_policies_that_the_score_is_of(
    filmed: tuple[Artifact, Film, list[str]],
) -> None:
    artifact, film, told = filmed
    returns = np.sort(artifact.evaluate()[:, 0])
    assert film.scores == {
        "best of 5": returns[4], "median of 5": returns[2], "worst of 5": returns[0]
    }  # fmt: skip
    assert film.without_expert == (
        f"the dataset {BUNDLED} that is here is not the one that the rows were distilled from"
    )
    assert told[:2] == ["running 5 policies", "making the expert again"]
    frames, seconds = count_frames_and_secs(str(film.film))
    assert film.frames_a_second == 25  # every second step of 50 a second
    assert (frames, seconds) == (film.frames, pytest.approx(film.frames / 25, abs=0.05))
    assert 0 < film.frames - 25 <= 13  # half a second, and the second that the last one stays
    still, gif = Image.open(film.poster), Image.open(film.gif)
    assert still.size[0] > 3 * 60
    assert gif.n_frames > 1
    assert film.gif.stat().st_size < 2_000_000
    assert {path.name for path in film.film.parent.iterdir()} == {
        *("a.film.mp4", "a.film.png", "a.film.gif")
    }
    assert json.loads(json.dumps(film.to_json()))["film"] == str(film.film)


@pytest.mark.slow
def test_an_export_with_a_film_is_read_and_its_card_shows_it(
    tmp_path: Path, filmed: tuple[Artifact, Film, list[str]]
) -> None:
    artifact, film, _ = filmed

    def copied(of: Artifact, to: Path) -> None:
        assert of is artifact
        for name, path in ((FILM, film.film), (POSTER, film.poster), (GIF, film.gif)):
            (to.parent / name).write_bytes(path.read_bytes())

    write_artifact(artifact, tmp_path / "rows", np.zeros((9, 2), np.float32), copied)
    read = read_artifact(tmp_path / "rows", trust=True)
    np.testing.assert_array_equal(read.actions, artifact.actions)
    assert f"]({GIF})" in (tmp_path / "rows" / "README.md").read_text()
    (tmp_path / "rows" / GIF).write_bytes(b"another")
    with pytest.raises(InputError, match=r"film.gif of .* was changed after its export"):
        read_artifact(tmp_path / "rows", trust=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "kind", "said"),
    [("draw", InputError, r"cannot be drawn here \(RuntimeError: no ink\)"),
     ("later", SDWError, "failed while it was drawn .*no ink"),
     ("die", InputError, "neither EGL nor OSMesa does here .*ended with status 7")],
)  # fmt: skip
def test_what_fails_to_draw_says_why_and_leaves_nothing(
    tmp_path: Path, broken: str, kind: type[SDWError], said: str
) -> None:
    artifact = rows(dot(broken=broken))
    with pytest.raises(kind, match=said):
        render(artifact, tmp_path / FILM, expert=False)
    assert not list(tmp_path.iterdir())


def test_a_camera_that_is_ended_within_a_picture_says_so() -> None:
    line = json.dumps({"step": 0, "total": 0.0, "terminated": False}).encode()
    told = b'{"height": 2, "width": 2}\n' + line + b"\n" + bytes(12) + line + b"\n" + bytes(5)
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"]) as process:
        shots = _shots(io.BytesIO(told), process, io.BytesIO(), dot())
        assert next(shots).pixels.shape == (2, 2, 3)
        with pytest.raises(SDWError, match=r"failed while it was drawn .*ended with status 9"):
            next(shots)


@pytest.mark.slow
def test_a_library_that_the_user_names_is_asked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(InputError, match=r"MUJOCO_GL asks for what does not here \(nonsense: "):
        _library(Environment.named("Hopper-v5"), 64)


@pytest.mark.slow
def test_an_environment_without_what_it_draws_with_says_what_to_install() -> None:
    pytest.importorskip("gymnasium.envs.classic_control")
    if "pygame" in sys.modules or _has("pygame"):
        pytest.skip("pygame is installed, which Pendulum-v1 draws with")
    with pytest.raises(InputError, match=r"Pendulum-v1 cannot be drawn here .*pygame"):
        _library(Environment.named("Pendulum-v1"), 64)


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


@pytest.mark.slow
def test_mujoco_is_filmed_with_the_rows_own_expert(tmp_path: Path) -> None:
    """Whose episode, played again, is the one that was run: the same steps and the same return."""
    try:
        _library(Environment.named("Hopper-v5"), 64)
    except InputError as error:
        pytest.skip(str(error))
    dataset = load(BUNDLED)
    artifact = rows(dataset.environment, policies=1)
    artifact.evidence["source"]["content_hash"] = dataset.content_hash
    artifact = replace(artifact, arena=Arena.of(dataset))
    film = render(artifact, tmp_path / FILM, seconds=1, width=66, cache=tmp_path / "cache")
    assert film.without_expert is None
    assert list(film.scores) == ["best of 1", "expert"]
    assert film.scores["best of 1"] == artifact.evaluate(artifact.evaluation())[0, 0]
    colours = Image.open(film.poster).getcolors(100_000)
    assert colours
    assert len(colours) > 200  # a body, a floor and a sky
