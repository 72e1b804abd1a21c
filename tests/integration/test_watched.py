"""A study that runs on a terminal, is watched on another, and is ended by an impatient Ctrl-C."""

import json
import os
import pty
import subprocess
import threading

import pytest

from study.folder import StudyFolder
from tests.integration.processes import LONG, SDW, Sdw, World, tiny_study, wait_until

pytestmark = pytest.mark.slow
CTRL_C = "\x03"


class Terminal:
    """`sdw ARGUMENTS` on a real pseudo-terminal of its own."""

    def __init__(self, world: World, *arguments: object) -> None:
        self._keyboard, device = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [SDW, *map(str, arguments)],
            env=world.env,
            cwd=world.path,
            stdin=device,
            stdout=device,
            stderr=device,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # Ctrl-C reaches it
        )
        os.close(device)
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self._keyboard, 65536).decode(errors="replace")
            except OSError:  # the process has ended
                return

    def ended(self) -> int:
        """The exit status, once all that was printed is read."""
        self._reading.join()
        return self.process.wait()

    def press(self, key: str) -> None:
        os.write(self._keyboard, key.encode())

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text, self.process)


def test_a_study_is_watched_and_stopped_from_another_terminal(world: World, sdw: Sdw) -> None:
    spec = world.path / "long.yaml"
    spec.write_text(tiny_study("name: long, trials: 3", 100 * LONG))
    launch = Terminal(world, "launch", spec)
    launch.wait_for("checking the settings and the data")
    launch.wait_for("starting Ray")
    launch.wait_for("distill (5/6)")
    watch = Terminal(world, "watch", "long")
    watch.wait_for("distill (5/6)")
    watch.wait_for("q leaves, s stops the study")
    watch.press("s")
    watch.wait_for("stop the study? y or n")
    watch.press("y")
    assert (launch.ended(), watch.ended()) == (0, 0)
    assert "stopped with 3 trials to go" in launch.text
    assert f"sdw resume {world.path}/sdw-studies/long" in watch.text


def test_two_impatient_interrupts_leave_no_scraps_and_a_way_on(world: World, sdw: Sdw) -> None:
    spec = world.path / "left.yaml"
    spec.write_text(tiny_study("name: left, trials: 3", 100 * LONG))
    launch = Terminal(world, "launch", spec)
    launch.wait_for("distill (5/6)")
    launch.press(CTRL_C)
    launch.wait_for("stopping")
    launch.press(CTRL_C)
    launch.press(CTRL_C)
    assert launch.ended() == 130
    assert "Ended by SIGINT; go on with `sdw resume" in launch.text
    assert "internal error" not in launch.text
    folder = StudyFolder(world.path / "sdw-studies" / "left")
    assert not list(folder.path.glob("*/.*[0-9a-f]"))
    _, out, _ = sdw("status", "left", "--json")
    assert json.loads(out)["state"] == "stopped"
    assert not [each for each in world.processes() if "raylet" in each.name()]
