"""Notes for optuna-dashboard's page, in Markdown: on a study, and on each trial.

Text of others (reasons, warnings, names, values) goes through `plain` or `code`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from optuna.artifacts import ArtifactMeta

from sdw_core.console import legible
from sdw_core.labels import in_words
from search_spaces import Choice, Distribution, StudySpec
from study.book import TrialRow
from study.snapshot import Failures, Snapshot, minutes, number, settings

PAGE = "/dashboard/studies/0"
"""Of the one study of a storage in memory."""


def study_note(snapshot: Snapshot, pictures: Sequence[Sequence[ArtifactMeta]]) -> str:
    """The study: the answer first, then the question, the state and the way on.

    Args:
        snapshot: of the study.
        pictures: of each trial.
    """
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in snapshot.outcomes.items())
    stands = (
        f"The study is {snapshot.state}: {len(snapshot.settled)} of {snapshot.total} trials have "
        f"an outcome ({outcomes or 'none was begun'})."
    )
    if snapshot.why_ended:
        stands += f" {plain(snapshot.why_ended)}"
    if snapshot.under_way:
        stands += f" Under way: {', '.join(snapshot.stages)}."
    if snapshot.seconds_left is not None:
        stands += f" About {minutes(snapshot.seconds_left)} left."
    commands = [
        f"- {what}: {code(command)}"
        for what, command in snapshot.next_commands
        if "sdw dashboard" not in command
    ]
    warned = snapshot.warnings.items()
    return "\n\n".join(
        [
            _answer(snapshot),
            f"**The question.** {_question(snapshot.spec)}",
            f"**Where it stands.** {stands}",
            *map(_failed, snapshot.failures),
            *(f"**{count} warned.** {plain(sentence)}" for sentence, count in warned),
            "**How to go on.**\n" + "\n".join(commands),
            f"The study lies in {code(snapshot.folder.path)}; this page shows a copy of it.",
            *_pictures_of_best(snapshot, pictures),
        ]
    )


def _answer(snapshot: Snapshot) -> str:
    """The best trial, or each on the Pareto front, with its settings; or that there is none."""
    if snapshot.unsatisfied:
        return f"## {plain(snapshot.unsatisfied)}"
    if not snapshot.best:
        return "## No trial has completed yet"
    rows = [snapshot.row(each) for each in snapshot.best]
    links = [f"[trial {row.number}]({PAGE}/trials?numbers={row.number})" for row in rows]
    objectives = [in_words(each.metric) for each in snapshot.spec.study.objectives]
    if len(objectives) == 1:
        values = [(code(path), plain(value)) for path, value in rows[0].params.items()]
        table = _table(["setting", "value"], values)
        told = f"\n\n{snapshot.race.verdict}" if snapshot.race else ""
        return f"## Best: {links[0]}, {snapshot.objectives(rows[0])}{told}\n\n{table}"
    lines = [
        [link, *map(number, row.values or []), plain(settings(row.params))]
        for link, row in zip(links, rows, strict=True)
    ]
    table = _table(["", *objectives, "settings"], lines)
    return f"## {len(rows)} trials on the Pareto front\n\n{table}"


def _table(headings: Sequence[str], lines: Iterable[Iterable[object]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _question(spec: StudySpec) -> str:
    searched = [f"{code(path)} ({plain(_values(each))})" for path, each in spec.search.items()]
    wanted = [
        f"the {'highest' if each.mode == 'max' else 'lowest'} {in_words(each.metric)}"
        for each in spec.study.objectives
    ]
    return (
        f"Which {', '.join(searched)} give {' and '.join(wanted)} on {code(spec.pipeline.source)}?"
    )


def _failed(group: Failures) -> str:
    return f"**{len(group.trials)} FAILED.** {plain(group.reason)} (trial {group.numbers()})"


def _pictures_of_best(
    snapshot: Snapshot, pictures: Sequence[Sequence[ArtifactMeta]]
) -> Iterator[str]:
    """Side by side, of the one best trial."""
    if len(snapshot.spec.study.objectives) == 1:
        for best in snapshot.best:
            yield " ".join(
                f"![{each.filename}](/artifacts/0/{best}/{each.artifact_id})"
                for each in pictures[best]
            )


def _values(distribution: Distribution) -> str:
    """What is searched, in words."""
    if isinstance(distribution, Choice):
        return ", ".join(map(str, distribution.choices))
    return f"{distribution.low:g} to {distribution.high:g}"


def trial_note(snapshot: Snapshot, row: TrialRow) -> str:
    """A trial: what happened, and where its files lie."""
    retried = f" It is trial {row.retry_of}, asked again." if row.retry_of is not None else ""
    said = [plain(snapshot.story(row)) + retried]
    said += [f"**Warned.** {plain(sentence)}" for sentence in row.warnings]
    if (folder := snapshot.folder.trial(row.number)).is_dir():
        said.append(f"Its files lie in {code(folder)}.")
    return "\n\n".join(said)


def plain(text: object) -> str:
    r"""Text as it is, within a line of Markdown.

    >>> plain("a | *b*")
    'a \\| \\*b\\*'
    """
    return re.sub(r"[\\`*_\[\]<>#|~$&!]", r"\\\g<0>", legible(str(text)))


def code(text: object) -> str:
    """Text as code, whatever it holds.

    >>> code("a"), code("a`b")
    ('`a`', '`` a`b ``')
    """
    said = legible(str(text))
    if "`" not in said:
        return f"`{said}`"
    fence = "`" * (1 + max(map(len, re.findall("`+", said))))
    return f"{fence} {said} {fence}"
