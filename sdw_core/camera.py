"""Draws one episode, as a process of its own: `python -m sdw_core.camera`.

A graphics library that does not work may end the process that asks it, and with which one MuJoCo
draws (MUJOCO_GL) is settled once in a process. So an episode is run first, and played again here:
its job comes as a line of JSON on stdin, its pictures go to stdout.

    job      environment, seed, actions [T, A], width, stride, frames
    first    a line: {"height", "width"}, or {"error", "mujoco"} and no more
    then     for each picture a line, {"step", "total", "terminated"}, and its pixels, 3 bytes each
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sdw_core.environment import Env, Environment
from sdw_core.errors import described

Pixels = NDArray[np.uint8]

ASPECT = 3 / 4
"""Height of a picture over its width, where MuJoCo draws; others draw as they like."""


def main() -> None:
    """Draw the episode of the job on stdin."""
    to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the environment prints is no picture
    job = json.loads(sys.stdin.readline())
    by_mujoco = False
    try:
        env = Environment.of_json(job["environment"]).make("rgb_array")
        by_mujoco = _sized(env, job["width"])
        env.reset(seed=job["seed"])
        first = _drawn(env)
    except Exception as error:  # an environment and a graphics library may raise anything
        _say(to, error=described(error), mujoco=by_mujoco)
        return
    _say(to, height=first.shape[0], width=first.shape[1])
    for step, total, terminated, pixels in _played(env, job, first):
        _say(to, step=step, total=total, terminated=terminated)
        to.write(pixels.tobytes())
    to.close()


def _played(
    env: Env, job: dict[str, Any], first: Pixels
) -> Iterator[tuple[int, float, bool, Pixels]]:
    """Every `stride`-th step: how many are done, their summed reward, whether it ended there."""
    yield 0, 0.0, False, first
    total, shown = 0.0, 1
    for step, action in enumerate(np.asarray(job["actions"], np.float32), 1):
        _, reward, terminated, _, _ = env.step(action)
        total += float(reward)
        over = step == len(job["actions"])
        if over or step % job["stride"] == 0:
            yield step, total, bool(over and terminated), _drawn(env)
            shown += 1
        if shown == job["frames"]:
            return


def _sized(env: Env, width: int) -> bool:
    """Let MuJoCo draw pictures of this width that follow who moves, as fast as a processor can.

    Returns:
        Whether it is MuJoCo that draws.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return False
    model, height = renderer.model, round(width * ASPECT)
    renderer.width, renderer.height = width, height
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    with suppress(KeyError):  # Gymnasium's own camera stays where the episode begins
        renderer.camera_id = model.camera("track").id
    quality = model.vis.quality
    quality.offsamples = 0  # four samples a pixel take four times as long
    quality.shadowsize = min(quality.shadowsize, 1024)
    return True


def _drawn(env: Env) -> Pixels:
    pixels: Any = env.render()
    return np.ascontiguousarray(pixels, np.uint8)[..., :3]


def _say(to: IO[bytes], **line: Any) -> None:
    to.write(json.dumps(line).encode() + b"\n")
    to.flush()


if __name__ == "__main__":
    main()
