"""The page of a study: the answer first, then what leads to it."""

import platform
import warnings
from base64 import b64encode
from collections import Counter
from typing import Any

import numpy as np
import optuna
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdw_core.artifact import versions
from sdw_core.distill.stability import smoothed, stretch
from sdw_core.errors import SDWError
from sdw_core.files import read_whole
from sdw_core.labels import GIF, POSTER, ROWS, counted, named, shrunk
from sdw_core.statistics import ReturnSummary, summarize
from study.book import ENSEMBLE, TrialBook, TrialRow
from study.folder import StudyFolder
from study.html import figures
from study.html.page import Answer, Figure, Line, Lines, Table, document_of, render
from study.html.states import states_figure
from study.outcomes import TrialResult, read_result
from study.race import LEVEL, Race
from study.snapshot import RETURNS, Snapshot, minutes, number
from study.tables import by_recipe, doubt, in_order

RIVALS = 10
"""Trials next to the winner that are held against it."""
CURVES = 5
"""Trials whose learning curves are shown."""
LARGEST = 2_000_000
"""Bytes of a picture that a page takes in."""
BESIDE = ("random_subset", "bc_all_data", "expert")
"""What rows are held against."""
AMONG_BEST = 5
"""Trials that importances need among the best, as PED-ANOVA's authors advise."""


def study_page(folder: StudyFolder) -> str:
    """A study's page.

    Raises:
        SDWError: the study's database is lost or cannot be read.
        InputError: study.yaml is missing, or holds something else.
    """
    book = folder.book()
    snapshot = Snapshot.of(folder, book)
    ranked = _ranked(snapshot)
    results = {row.number: read_result(folder.trial(row.number)) for row in ranked[: RIVALS + 1]}
    spec = snapshot.spec
    answer = _answer(snapshot, ranked, results)
    overview, settings, missing = _figures(book, snapshot, ranked, results)
    document = spec.model_dump(mode="json")
    film = _film(snapshot)
    return render(
        "study.html",
        name=folder.name,
        kind="study",
        heading=_heading(snapshot),
        drawn=bool(overview or settings),
        answer=answer,
        film=film,
        overview=overview,
        settings=settings,
        missing=missing,
        snapshot=snapshot,
        failures=snapshot.failures,
        trials=_trials(snapshot),
        facts=_facts(snapshot, ranked, results),
        spec=yaml.safe_dump(document, sort_keys=False, allow_unicode=True),
    )


def _ranked(snapshot: Snapshot) -> list[TrialRow]:
    """The COMPLETE trials, best first: those of a front, or of a race, before the others.

    Those that are beyond a constraint come last.
    """
    objectives = snapshot.spec.study.objectives
    sign = -1 if objectives[0].mode == "max" else 1
    rows = figures.complete(snapshot)
    front = set(snapshot.best) if len(objectives) > 1 else set()
    raced = snapshot.race.ranking if snapshot.race else []

    def place(row: TrialRow) -> tuple[bool, bool, int, float, int]:
        first = raced.index(row.number) if row.number in raced else len(raced)
        return (
            bool(row.violates),
            row.number not in front,
            first,
            sign * figures.value_of(row, 0),
            row.number,
        )

    return sorted(rows, key=place)


def _heading(snapshot: Snapshot) -> str:
    """What it is, in a line."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in snapshot.outcomes.items())
    source = snapshot.spec.pipeline.source
    said = (
        f"Study on {source}, {snapshot.state}: {len(snapshot.settled)} of {snapshot.total} trials"
    )
    said = f"{said} ({counts})." if counts else f"{said}."
    return f"{said} {snapshot.why_ended}" if snapshot.why_ended else said


# The answer


def _answer(
    snapshot: Snapshot, ranked: list[TrialRow], results: dict[int, TrialResult | None]
) -> Answer:
    if not snapshot.best:
        return Answer(None, _nothing(snapshot), [], [], [])
    objectives = snapshot.spec.study.objectives
    if len(objectives) > 1:
        return _front(snapshot)
    best, metric = ranked[0], objectives[0].metric
    settings = [f"{path} {document_of(value)}" for path, value in best.params.items()]
    confirmed = _confirmed(snapshot.folder, best)
    sentences, tables = [], []
    if confirmed:
        key = "synthetic_ensemble" if "synthetic_ensemble" in confirmed else "synthetic"
        summary = confirmed[key]
        score = f"{summary['mean']:.1f}"
        of = named("normalised return on fresh seeds", summary.get("ensemble", 1))
        of += f", 95 % interval {summary['low']:.1f} to {summary['high']:.1f}"
        if snapshot.shrinkage is not None:
            sentences.append(f"It is {shrunk(snapshot.shrinkage)}, by whose score it was chosen.")
        sentences.append(_beside([{k: s for k, s in confirmed.items() if k != key}]))
        if doubted := doubt(confirmed):
            sentences.append(doubted)
        tables.append(_returns(best, confirmed))
    else:
        score = number(figures.value_of(best, 0))
        of = figures.metric_name(metric, best.ensemble)
        if metric == RETURNS[0] and best.interval:
            of += f", 95 % interval {figures.interval_of(best)}"
        sentences.append(
            "This is the search's own score, on the seeds by which the best was chosen: expect "
            "less on fresh seeds. The study's end, or `sdw export`, judges the best on those."
        )
    if snapshot.race:
        sentences.append(snapshot.race.verdict)
        tables.append(_raced(snapshot.race))
    elif metric in RETURNS:
        told, table = _rivals([row for row in ranked if not row.violates], results)
        sentences.append(told)
        tables += [table] if table else []
    return Answer(score, f"trial {best.number}: {of}", sentences, settings, tables)


def _nothing(snapshot: Snapshot) -> str:
    if not snapshot.trials:
        return "No trial has begun yet."
    if snapshot.unsatisfied:
        return snapshot.unsatisfied
    if failed := sum(len(group.trials) for group in snapshot.failures):
        return f"No trial has completed; {failed} FAILED, and why stands below."
    return "No trial has completed yet."


def _front(snapshot: Snapshot) -> Answer:
    """Of two objectives none is the best."""
    objectives, search = snapshot.spec.study.objectives, list(snapshot.spec.search)
    rows = sorted(
        (snapshot.row(each) for each in snapshot.best), key=lambda row: figures.value_of(row, 0)
    )
    names = [figures.metric_name(o.metric, *{row.ensemble for row in rows}) for o in objectives]
    cells, others = [], []
    for row in rows:
        confirmed, judged = _confirmed(snapshot.folder, row), [""] * (1 + len(BESIDE))
        if confirmed:
            fresh, random = by_recipe(confirmed)
            others.append(in_order(confirmed | {"random_subset": random}, BESIDE))
            judged = [f"{fresh['mean']:.1f} ({fresh['low']:.1f} to {fresh['high']:.1f})"]
            judged += [f"{s['mean']:.1f}" if (s := others[-1].get(k)) else "" for k in BESIDE]
        cells.append(
            [
                str(row.number),
                *(number(value) for value in row.values or []),
                *judged,
                *(document_of(row.params.get(path)) for path in search),
            ]
        )
    fresh_seeds = "return on fresh seeds (95 %)", *(ROWS[key] for key in BESIDE)
    table = Table("The Pareto front", ["trial", *names, *fresh_seeds, *search], cells)
    ends = [f"trial {row.number} ({snapshot.objectives(row)})" for row in (rows[0], rows[-1])]
    said = f"They go from {' to '.join(ends)}." if len(rows) > 1 else f"It is {ends[0]}."
    of = f"trial{'s' * (len(rows) > 1)} on the Pareto front"
    sentences = [said, _beside(others)] if others else [said]
    return Answer(str(len(rows)), of, sentences, [], [table])


def _beside(judged: list[dict[str, Any]]) -> str:
    """What the rows of one trial, or of several, are held against on the same seeds."""
    said = []
    for key, score in judged[0].items():
        means = sorted({f"{s['mean']:.1f}" for other in judged if (s := other.get(key))}, key=float)
        name = named(ROWS[key], score.get("ensemble", 1))
        name += " (behavioural cloning)" if key == "bc_all_data" else ""
        said.append(f"{name}: {' to '.join(dict.fromkeys((means[0], means[-1])))}")
    return (
        f"Beside {'it' if len(judged) == 1 else 'them'}: {'; '.join(said)}. At 0 is a random "
        "policy, at 100 the expert of the dataset's reference scores."
    )


def _confirmed(folder: StudyFolder, row: TrialRow) -> dict[str, Any] | None:
    """A trial's scores on fresh seeds; None where it was not judged there."""
    document = read_whole(folder.trial(row.number) / "confirmed.json")
    return document and in_order(document)


def _returns(row: TrialRow, confirmed: dict[str, Any]) -> Table:
    head = ["normalised return", "mean", "95 % interval", "inter\u00adquartile mean"]
    cells = [
        [
            named(ROWS[key], summary.get("ensemble", 1)),
            f"{summary['mean']:.1f}",
            f"{summary['low']:.1f} to {summary['high']:.1f}",
            f"{summary['iqm']:.1f}",
        ]
        for key, summary in confirmed.items()
    ]
    return Table(f"Trial {row.number} on fresh seeds, beside what it has to beat", head, cells)


def _raced(race: Race) -> Table:
    """The trials of a race, the winner first."""
    head = ["trial", "mean of all", "in the race", "policies", "in the search", "outcome"]
    cells = []
    for each in race.ranking:
        outcome = "cannot be told from the winner"
        if each in race.dropped:
            outcome = f"dropped after round {race.dropped[each]}"
        cells.append(
            [
                f"trial {each}",
                f"{race.pooled(each):.1f}",
                f"{race.mean(each):.1f}",
                str(len(race.scores[each])),
                f"{race.searched[each][0]:.1f}",
                "the winner" if each == race.winner else outcome,
            ]
        )
    method = (
        "How the best trials were told apart: fresh policies of each, round after round, paired by "
        "their random numbers; one that was clearly behind the leader of then, by a paired t-test, "
        f"was dropped and judged no more (so is the best one, in about {LEVEL:.0%} of studies); of "
        "a trial with several distillation seeds, its best rows were judged; the highest mean over "
        "all policies, those of the search included, wins"
    )
    return Table(method, head, cells)


def _rivals(
    ranked: list[TrialRow], results: dict[int, TrialResult | None]
) -> tuple[str, Table | None]:
    """Whether the winner can be told from the next ones, and by what."""
    best, *others = ranked[: RIVALS + 1]
    if not others:
        return "There is no other trial to tell it from.", None
    leads = [
        (row, lead) for row in others if (lead := _lead(results[best.number], results[row.number]))
    ]
    if not leads:
        told = "Whether it can be told from the next ones is not known: their returns, policy by "
        return f"{told}policy, are not there, or their policies are no pairs.", None
    alike = [str(row.number) for row, lead in leads if lead.low <= 0]
    if not alike:
        told = f"It can be told from each of the next {len(leads)}."
    elif len(alike) == 1:
        told = f"It cannot be told from trial {alike[0]}: which of the two is better is open."
    else:
        which = f"{', '.join(alike[:-1])} and {alike[-1]}"
        told = f"It cannot be told from trials {which}: which of these is best is open."
    cells = [
        [
            f"trial {row.number}",
            number(figures.value_of(row, 0)),
            f"{lead.mean:.1f}",
            f"{lead.low:.1f} to {lead.high:.1f}",
            "yes" if lead.low > 0 else "no",
        ]
        for row, lead in leads
    ]
    method = (
        "How the winner is told from the next ones: the mean difference of returns, policy by "
        "policy, for policies of one number share their random numbers in all trials; 95 % "
        "bootstrap over distillation seeds and policies, on the search's seeds, without a "
        "correction for the winner's having been chosen there"
    )
    head = ["next", "its value", "winner's lead", "95 % interval", "told apart"]
    return told, Table(method, head, cells)


def _lead(ours: TrialResult | None, theirs: TrialResult | None) -> ReturnSummary | None:
    """The paired difference of two trials' returns; None where their policies are no pairs."""
    if not ours or not theirs or ours.distillation_seeds != theirs.distillation_seeds:
        return None
    found = ours.normalized_return, theirs.normalized_return
    a, b = (np.array(each.per_policy) if each else np.empty(0) for each in found)
    if len(a) != len(b) or not len(a):
        return None
    return summarize((a - b)[:, None], 0, len(ours.distillation_seeds))


# Figures


def _film(snapshot: Snapshot) -> dict[str, str]:
    """The moving picture and the still of the best trial's policies, as far as they were made."""
    if len(snapshot.best) != 1 or not snapshot.exports:
        return {}
    found = {}
    for kind, name in (("gif", GIF), ("png", POSTER)):
        path = snapshot.exports[0] / name
        if path.is_file() and path.stat().st_size <= LARGEST:
            content = b64encode(path.read_bytes()).decode()
            found[kind] = f"data:image/{kind};base64,{content}"
    return found


def _figures(
    book: TrialBook,
    snapshot: Snapshot,
    ranked: list[TrialRow],
    results: dict[int, TrialResult | None],
) -> tuple[list[Figure], list[Figure], list[str]]:
    """The figures, those of single settings apart, and why others are missing."""
    if not ranked:
        times = [figures.stage_times(snapshot)] if any(r.stages for r in snapshot.trials) else []
        return times, [], []
    objectives, missing = snapshot.spec.study.objectives, []
    best = results[ranked[0].number]
    expert = best.expert.mean if best and best.expert else None
    found = [
        figures.over_trials(snapshot, i, expert if objective.metric in RETURNS else None)
        for i, objective in enumerate(objectives)
    ]
    if len(objectives) > 1:
        found.insert(0, figures.pareto(snapshot))
    settings = [
        figures.against_value(snapshot, path, i)
        for i in range(len(objectives))
        for path in snapshot.spec.search
        if objectives[i].metric != path.rpartition(".")[2]  # a setting against itself
        and any(path in row.params for row in ranked)
    ]
    always = [path for path in snapshot.spec.search if all(path in r.params for r in ranked)]
    if some := [path for path in snapshot.spec.search if path not in always]:
        missing.append(f"Importances leave out what not every trial has: {', '.join(some)}.")
    if len(always) < 2:
        missing.append("Importances take two searched settings that every trial has.")
    elif len(ranked) >= 2 * AMONG_BEST:
        share = max(0.1, AMONG_BEST / len(ranked))
        found.append(figures.importances(snapshot, _importances(book, share), share))
    else:
        missing.append(f"Importances take {2 * AMONG_BEST} COMPLETE trials.")
    if snapshot.spec.search:
        found.append(figures.parallel(snapshot, 0))
    shown = [row.number for row in ranked[:CURVES]]
    losses = {n: curve for n in shown if (curve := _losses(snapshot.folder, n))}
    found += [figures.losses(losses)] if losses else []
    returns = {
        n: {int(step): values for step, values in result.curve.items()}
        for n in shown
        if (result := results.get(n)) and len(result.curve) > 1
    }
    if returns:
        name = figures.metric_name(RETURNS[0], *{row.ensemble for row in ranked[:CURVES]})
        found.append(figures.returns_along(returns, name))
    try:
        found.append(states_figure(snapshot.folder, ranked[0].number))
    except SDWError as error:
        missing.append(f"Source and synthetic states cannot be shown: {error}")
    found.append(figures.stage_times(snapshot))
    return found, settings, missing


def _importances(book: TrialBook, share: float) -> dict[str, float]:
    """Path -> share of what sets the best trials apart, the largest first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental; trials may all be alike
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
        return optuna.importance.get_param_importances(book.study, evaluator=evaluator)


def _losses(folder: StudyFolder, number: int) -> tuple[list[int], list[float]] | None:
    """Ends of stretches of outer steps, and the meta-loss's means over these and the seeds."""
    try:
        losses = load_file(folder.trial(number) / "rows.safetensors")["losses"]
    except (FileNotFoundError, KeyError, SafetensorError):
        return None
    steps = losses.shape[1]
    if steps < stretch(steps):
        return None
    means = smoothed(losses).mean(axis=0).tolist()
    ends = range(steps % stretch(steps) + stretch(steps), steps + 1, stretch(steps))
    return list(ends), means


# Tables


def _trials(snapshot: Snapshot) -> Lines:
    objectives, search = snapshot.spec.study.objectives, list(snapshot.spec.search)
    kinds = () if ENSEMBLE in search else {row.ensemble for row in snapshot.trials}
    names = [figures.metric_name(objective.metric, *kinds) for objective in objectives]
    said = ["95 % interval", "seconds", "node", "reason"]
    head = [(path.rpartition(".")[2], path) for path in search]
    head = [("outcome", "outcome"), *((n, n) for n in names), *head, *((n, n) for n in said)]
    lines = []
    for row in snapshot.trials:
        values = [number(value) for value in row.values or []] or [""] * len(objectives)
        outcome = [row.outcome, *["asked"] * row.asked, *(f"beyond {v}" for v in row.violates)]
        if row.judged_by:
            outcome.append(row.judged_by)
        cells = [
            ", ".join(outcome),
            *values,
            *(document_of(row.params[path]) if path in row.params else "" for path in search),
            figures.interval_of(row),
            "" if row.seconds is None else f"{row.seconds:.0f}",
            row.node or "",
            row.reason or "",
        ]
        best = row.number in snapshot.best
        first = f"{row.number} (best)" if best else str(row.number)
        title = f"Trial {row.number}, the best" if best else f"Trial {row.number}"
        lines.append(Line(figures.id_of(row), first, title, snapshot.story(row), best, cells))
    return Lines("trial", head, lines)


def _facts(
    snapshot: Snapshot, ranked: list[TrialRow], results: dict[int, TrialResult | None]
) -> dict[str, str]:
    """Machine, seeds, versions and whatever else one must know to do it again."""
    spec, facts = snapshot.spec, {}
    result = results[ranked[0].number] if ranked else None
    if result and result.dataset:
        source = result.dataset
        facts["dataset"] = (
            f"{source['name']}: {source['transitions']:,} transitions in {source['episodes']:,} "
            f"episodes, SHA-256 {source['content_hash']}"
        )
    if result and result.expert:
        low, high = result.expert.low, result.expert.high
        facts["expert"] = (
            f"{spec.pipeline.expert.method}, normalised return {result.expert.mean:.1f} "
            f"(95 % interval {low:.1f} to {high:.1f})"
        )
    if result and result.sources:
        stages = (f"{stage} {version}" for stage, version in result.sources.method.items())
        facts["method, versions of the stages"] = ", ".join(stages)
    nodes = Counter(row.node for row in snapshot.trials if row.node)
    if nodes:
        facts["trials on"] = ", ".join(f"{node} ({count})" for node, count in nodes.items())
    need, study = spec.study.resources, spec.study
    seeds = counted(spec.pipeline.distill.seeds, "distillation seed")
    facts["a trial has"] = f"{need.cpu} CPU, {need.gpu:g} GPU"
    facts["seeds"] = f"search {study.seed}, pipeline {spec.pipeline.seed}, {seeds} a trial"
    seconds = sum(row.seconds or 0 for row in snapshot.trials)
    facts["trials' time"] = f"{minutes(seconds)} in all"
    exported = read_whole(snapshot.exports[0] / "manifest.json") if snapshot.exports else None
    made_with = (exported or {}).get("versions") or versions()
    facts["versions"] = ", ".join(f"{name} {each}" for name, each in made_with.items())
    facts["this page's machine"] = f"{platform.node()}, {platform.platform()}"
    return facts
