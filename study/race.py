"""Which of a study's best trials is the best: they race on seeds that the search never used.

The best of many noisy scores is partly the luckiest. So once a study's trials have ended, those at
its top are judged again, in rounds: fresh policies are cloned from the rows of every trial that is
still in the race, policy k of a round from the same random numbers in all of them, and run for an
episode each. (An episode of another policy tells more of the mean over policies than another
episode of the same.) After a round, a trial that is clearly behind the leader is dropped, and what
it would have cost goes to the others. Of those that are left the one with the highest mean over all
of its policies wins, those that the search judged among them: a short race does not overrule a long
search, and among trials that were chosen alike the higher mean is the likelier one.

Dropping is successive elimination: a one-sided paired t-test of the policies' differences, at level
`LEVEL / ((m - 1) r (r + 1))` after round r of m trials. The sum of these over all rounds and all
comparisons of a trial with others is `LEVEL`, however many rounds there are (Bonferroni): so the
best trial is dropped in about that share of studies. By bounds of the same levels a race ends
before its budget does, where no trial that is left is better than the winner by more than `DELTA`
points. The test takes the mean difference for normal. Where few policies fall, and deeply, it is
not until some have: none is dropped before it has `FEWEST` policies. Bounds that hold without that,
such as empirical Bernstein's, need returns within known ends, and many times the policies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdw_core.files import read_whole
from search_spaces import StudySpec
from study.book import TrialBook, TrialRow
from study.folder import StudyFolder

LEVEL = 0.05
"""Share of studies, about, of which the race drops the best trial."""
POLICIES = 16
"""Fresh policies of a trial in a round, an episode each."""
FEWEST = 3 * POLICIES
"""Of a trial, before it is dropped."""
DELTA = 1.0
"""Points by which a winner may be the worse one: nobody judges on for that."""
VERSION = 2
"""Of the method: raised when the same returns give another race. Races that state none are of 1,
which had no `DELTA`, and took for a trial's score in the search that of all its distillation
seeds."""
SHORTEST = 1e-3
"""Seconds that judging a trial in a round takes at least."""
STAGE = "race"
"""Random streams of the rounds: never used in a search, nor by what an export states."""
RACED = [("normalized_return", "max")]
"""Objectives of the studies whose trials race: a race compares means."""

Scores = NDArray[np.float64]
Judge = Callable[[int, int], Scores]
"""Returns [P] of fresh policies: of a trial's number, in a round, from 0."""


@dataclass(frozen=True)
class Race:
    """How a race went.

    Attributes:
        contenders: the trials' numbers, as the search ranked them.
        searched: number -> the score of its rows in the search, and how many policies that is the
            mean of.
        scores: number -> return of each of its policies, round after round.
        dropped: number -> after how many rounds a trial was clearly behind the leader.
        of_best: whether a trial has rows of several distillation seeds, of which the best raced.
        method: the `VERSION` by which it was held.
    """

    contenders: tuple[int, ...]
    searched: Mapping[int, tuple[float, int]]
    scores: Mapping[int, Sequence[float]]
    dropped: Mapping[int, int]
    of_best: bool = False
    method: int = VERSION

    @property
    def ranking(self) -> list[int]:
        """The contenders, the winner first: those that were dropped later come before others."""

        def place(number: int) -> tuple[float, float]:
            return -self.dropped.get(number, np.inf), -self.pooled(number)

        return sorted(self.contenders, key=place)

    @property
    def winner(self) -> int:
        """The trial with the highest mean of all its policies, of those never dropped."""
        return self.ranking[0]

    @property
    def open(self) -> list[int]:
        """The trials that cannot be told from the winner."""
        return [number for number in self.ranking[1:] if number not in self.dropped]

    @property
    def told(self) -> dict[str, Any]:
        """What came of it, as a manifest states it."""
        found = {"contenders": list(self.contenders), "winner": self.winner, "open": self.open}
        return found | {"method": self.method}

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence."""
        open = [str(number) for number in self.open]
        said = f"The {len(self.contenders)} best trials of the search raced on fresh seeds"
        said += ", each by the best of its distillation seeds" * self.of_best
        said += ", by the method of an earlier version" * (self.method < VERSION)
        said += f": trial {self.winner} has the highest mean, "
        if not open:
            return f"{said}and the others were clearly behind."
        *others, last = open
        which = f"trials {', '.join(others)} and {last}" if others else f"trial {last}"
        return f"{said}and cannot be told from {which}."

    def mean(self, number: int) -> float:
        """Of a trial's policies in the race."""
        return float(np.mean(self.scores[number]))

    def pooled(self, number: int) -> float:
        """Mean of all policies of a trial, those of the search included."""
        score, policies = self.searched[number]
        raced = len(self.scores[number])
        return (policies * score + raced * self.mean(number)) / (policies + raced)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Race":
        """What `to_json` made a document of.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is no such document.
        """
        contenders = tuple(map(int, document["contenders"]))
        searched, scores, dropped = (
            {int(number): value for number, value in document[name].items()}
            for name in ("searched", "scores", "dropped")
        )
        known = {*contenders}
        judged = {n: [float(each) for each in values] for n, values in scores.items()}
        whole = len(known) == len(contenders) > 1 and known == judged.keys() == searched.keys()
        if not whole or not dropped.keys() < known or not all(judged.values()):
            raise ValueError("no race")
        if not np.isfinite(np.concatenate([*judged.values()])).all():
            raise ValueError("no race")
        means = {n: (float(score), int(policies)) for n, (score, policies) in searched.items()}
        rounds = {n: int(r) for n, r in dropped.items()}
        method = int(document.get("method", 1))
        return cls(contenders, means, judged, rounds, bool(document.get("of_best")), method)

    def to_json(self) -> dict[str, Any]:
        """What `race.json` holds and `sdw status --json` prints."""
        return asdict(self) | self.told | {"ranking": self.ranking, "level": LEVEL}


def race(
    searched: Mapping[int, tuple[float, int]],
    judge: Judge,
    evaluations: int,
    level: float = LEVEL,
    of_best: bool = False,
) -> Race:
    """Judge trials in rounds until one is left, or none is better, or the budget is spent.

    Args:
        searched: of two trials or more, as the search ranked them; see `Race`.
        judge: see `Judge`.
        evaluations: how many times a trial may be judged, all in all; see `affordable`.
        level: as `LEVEL`.
        of_best: see `Race`.
    """
    contenders = tuple(searched)
    scores: dict[int, list[float]] = {number: [] for number in contenders}
    dropped: dict[int, int] = {}
    left, rounds = list(contenders), 0
    while len(left) > 1 and len(left) <= evaluations:
        for number in left:
            scores[number] += judge(number, rounds).tolist()
        evaluations -= len(left)
        rounds += 1
        share = level / ((len(contenders) - 1) * rounds * (rounds + 1))
        lost = behind({number: np.array(scores[number]) for number in left}, share)
        dropped |= dict.fromkeys(lost, rounds)
        left = [number for number in left if number not in lost]
        winner = Race(contenders, searched, scores, dropped).winner
        leads = [np.subtract(scores[each], scores[winner]) for each in left if each != winner]
        same_rows = not np.any(leads)
        if same_rows or all(lead.mean() + reach(lead, share) <= DELTA for lead in leads):
            break
    return Race(contenders, searched, scores, dropped, of_best)


def behind(scores: Mapping[int, Scores], level: float) -> list[int]:
    """Which trials' means are below the highest one, by a paired t-test each.

    Args:
        scores: number -> returns [N] of its policies; those of one place are pairs.
        level: of each test.
    """
    leader = max(scores, key=lambda number: scores[number].mean())
    leads = {n: scores[leader] - theirs for n, theirs in scores.items() if n != leader}
    return [number for number, lead in leads.items() if lead.mean() > reach(lead, level)]


def reach(differences: Scores, level: float) -> float:
    """How far the mean of paired differences [N] may lie off, on one side; unknown of a few."""
    from scipy.special import stdtrit  # a quantile of Student's t

    count = len(differences)
    if count < FEWEST:
        return np.inf
    return float(-stdtrit(count - 1, level) * differences.std(ddof=1) / count**0.5)


def raced(folder: StudyFolder, book: TrialBook) -> Race | None:
    """The race of a study's best trials; None if these have not raced, or are not to."""
    if not races(book.spec):
        return None
    try:
        found = Race.from_json(read_whole(folder.race) or {})
    except (ValueError, LookupError, TypeError, AttributeError):  # none, or another's
        return None
    return found if book.best(len(found.contenders)) == list(found.contenders) else None


def ranked(book: TrialBook, race: Race | None, top: int = 1) -> list[int]:
    """Numbers of the best trials, as `TrialBook.best`: those that have raced as the race says."""
    if race is None:
        return book.best(top)
    count = len(race.contenders)
    by_search = book.best(max(top, count))
    if by_search[:count] != list(race.contenders):  # another trial has ended since
        return by_search[:top]
    return [*race.ranking, *by_search[count:]][:top]


def races(spec: StudySpec) -> bool:
    """Whether a study's best trials are to race."""
    objectives = [(objective.metric, objective.mode) for objective in spec.study.objectives]
    return spec.study.confirm is not None and objectives == RACED


def entered(book: TrialBook) -> tuple[list[int], int]:
    """Which trials a race is of, as the search ranked them, and how many times one can be judged.

    At the least each is judged once: fewer enter where the budget is small. None does where there
    are not two, or no budget for two.
    """
    assert book.spec.study.confirm is not None
    contenders = book.best(book.spec.study.confirm.top)
    if len(contenders) < 2:
        return [], 0
    evaluations = affordable(book.spec, book.rows(), contenders)
    return (contenders[:evaluations], evaluations) if evaluations > 1 else ([], 0)


def affordable(spec: StudySpec, rows: Sequence[TrialRow], contenders: Sequence[int]) -> int:
    """How many times a trial can be judged in a round, all in all.

    A share of a study's time is that of the time in which its trials ran, and what an episode takes
    is what it took in the trials: both are of the trials' records, so that a race which is held
    anew is the same.
    """
    assert spec.study.confirm is not None
    budget = spec.study.confirm.budget
    if budget > 1:
        return int(budget) // POLICIES
    paces = []
    for number in contenders:
        config = spec.pipeline_with(rows[number].params)
        evaluation = config.evaluation
        policies = (rows[number].judged or {}).get("policies", evaluation.policies)
        episodes = config.distill.seeds * policies * evaluation.episodes
        paces.append(rows[number].stages.get("evaluate", 0.0) / episodes)
    return int(budget * seconds_of(rows) / max(median(paces) * POLICIES, SHORTEST))


def seconds_of(rows: Sequence[TrialRow]) -> float:
    """Seconds in which at least one of the trials ran; one that says no end ran by itself.

    >>> from study.book import TrialRow
    >>> def row(ended, seconds):
    ...     return TrialRow(0, "COMPLETE", None, {}, None, None, seconds, {}, None, [], ended=ended)
    >>> seconds_of([row(110.0, 10.0), row(105.0, 10.0), row(300.0, 20.0), row(None, 5.0)])
    40.0
    """
    total, until = sum(row.seconds or 0.0 for row in rows if row.ended is None), -np.inf
    ran = [(row.ended - (row.seconds or 0.0), row.ended) for row in rows if row.ended is not None]
    for begun, ended in sorted(ran):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total
