"""A program: Tune runs one attempt, and is asked to stop in the moment in which it is proposed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import ray

from search_spaces.spec import Resources
from study.attempts import Attempts
from study.supervision import run_attempts


class One(Attempts):
    """Stops as soon as it has proposed."""

    proposed = requeued = False

    def propose(self):
        self.proposed = True
        return {"number": 0}

    def requeue(self, number):
        self.requeued = True

    def record(self, number, result, ray_trial_id):
        raise AssertionError


def nothing(*_):
    pass


def trainable(config):
    raise AssertionError


if __name__ == "__main__":
    watched = SimpleNamespace(
        heartbeat=SimpleNamespace(require=nothing),
        cluster=SimpleNamespace(require=nothing, require_node=nothing),
        places=SimpleNamespace(look=nothing),
        admission=None,
        leaving=Path("leaving.json"),
    )
    attempts = One(lambda: attempts.proposed, None, lambda: 1, ["value"], ["max"])
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    run_attempts(attempts, trainable, Resources(), Path(sys.argv[1]), watched)
    sys.exit(not attempts.requeued)
