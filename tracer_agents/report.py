"""What a run prints: progress bars, the table before -> after, and where to look next."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD  # noqa: TID253
from rich.console import Console  # noqa: TID253 - this module is the command line's face
from rich.progress import (  # noqa: TID253
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table  # noqa: TID253

from tracer_agents.certify import NOT_CERTIFIED, Certificate, CertifiedGame
from tracer_agents.estimators import EstimatorRow
from tracer_agents.fit import ExactFit

__all__ = ["ROWS", "RecordProgress", "TrainProgress", "print_closing", "print_evaluation", "print_results"]

ROWS = (
    ("before", "team before (untrained)"),
    ("after", "team AFTER"),
    ("after_sampled_average", "AFTER, controllers drawn"),
    ("after_last_iterate", "AFTER, last iterate"),
    ("always_speak", "AFTER, always speak"),
    ("after_greedy_decoding", "AFTER, greedy decoding"),
    ("single_greedy", "one greedy call, base"),
    ("single_sampled", "one sampled call, base"),
    ("self_consistency_3", "self-consistency 3, base"),
    ("trained_single_greedy", "one greedy call, trained"),
    ("trained_single_sampled", "one sampled call, trained"),
)


class TrainProgress:
    """Progress bars of a training run, with the rate and the time left; and one line of figures per update."""

    def __init__(self) -> None:
        """Prepare the bars; nothing is shown before the context is entered."""
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:<11}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),  # in all 79 columns
            console=Console(),
        )
        self._bars: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}  # when a bar appeared, and how many steps were done by then
        self._current: TaskID | None = None
        self._explained = False

    def __enter__(self) -> TrainProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop drawing."""
        self._progress.stop()

    def step(self, what: str, done: int, total: int) -> None:
        """Move the bar of ``what`` to ``done`` of ``total`` steps; called with the steps done before work begins."""
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=total, rate="", note="")
            self._begun[what] = (time.monotonic(), done)
        self._current = self._bars[what]
        began, at = self._begun[what]
        rate = f"{(time.monotonic() - began) / (done - at):.1f} s each" if done > at else ""
        self._progress.update(self._current, completed=done, rate=rate, note="")

    def round(self, number: int, lines: int) -> None:
        """Note at the current bar which round is being played, and in how many dialogues and branches."""
        if self._current is not None:
            self._progress.update(self._current, note=f"round {number + 1}, {lines} dialogues")

    def figures(self, update: int, stats: Mapping[str, float]) -> None:
        """Print one line about an update, and warn when hardly anything or nearly everything is clipped."""
        parts = [f"update {update:>3}: accuracy {stats['accuracy']:.2f}, tokens {stats['tokens_spent']:.0f}"]
        for name, value in stats.items():
            if name.endswith("/reward_mean"):
                policy = name.split("/")[0]
                clipped = stats[f"{policy}/clipped_share"]
                odd = stats[f"{policy}/steps"] > 0 and not 0.01 <= clipped <= 0.5
                parts.append(
                    f"{policy}: reward {value:+.2f}, spread {stats[f'{policy}/groups_with_spread']:.0f}"
                    f"/{stats[f'{policy}/groups']:.0f}, clipped {clipped:.0%}{'!' if odd else ''}"
                )
        self._progress.console.print("   ".join(parts), highlight=False, soft_wrap=True)
        if not self._explained and any(part.endswith("!") for part in parts):
            self._explained = True
            self._progress.console.print(
                "(! less than 1 % or more than 50 % of the sequences were clipped in the update's last step: the clip "
                "range --epsilon-low, --epsilon-high does nothing there, or nearly everything)",
                style="dim",
                soft_wrap=True,
            )


class RecordProgress:
    """The progress bar of ``tracer record``: questions done, and the time left."""

    def __init__(self) -> None:
        """Prepare the bar."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=Console(),
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> RecordProgress:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        self.stop()

    def stop(self) -> None:
        """Stop drawing."""
        self._progress.stop()

    def step(self, done: int, total: int) -> None:
        """Show how many questions are done."""
        if self._bar is None:
            self._bar = self._progress.add_task("recording", total=total)
        self._progress.update(self._bar, completed=done)


def _console() -> Console:
    """A terminal has its own width; what goes into a file is wide enough for whole rows."""
    return Console(width=None if sys.stdout.isatty() else 132)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _table(title: str) -> Table:
    """Start a table that fits a terminal of 80 columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("")
    for name in ("accuracy % (95 %)", "tokens", "calls", "corr.", "pres.", "corrupt."):
        table.add_column(name, justify="right")
    return table


_LEGEND = (
    "tokens and calls per question; of wrong first proposals, corr. = made right; of right ones, pres. = kept right, "
    "corrupt. = made wrong; all in %"
)


def _add_row(table: Table, label: str, figures: Mapping[str, Any]) -> None:
    low, high = figures["accuracy_ci95"]
    table.add_row(
        label,
        f"{_percent(figures['accuracy'])} ({_percent(low)}-{_percent(high)})",
        f"{figures['tokens_per_question']:.1f}",
        f"{figures['calls_per_question']:.2f}",
        _percent(figures["correction"]),
        _percent(figures["preservation"]),
        _percent(figures["corruption"]),
    )


def print_results(summary: Mapping[str, Any]) -> None:
    """Print the table before -> after and the SPEAK rate of every information set."""
    console = _console()
    n = summary["before"]["num_questions"]
    table = _table(f"{summary['eval_task']}: {n} held-out questions, seed {summary['seed']}")
    for name, label in ROWS:
        if name in summary:
            _add_row(table, label, summary[name])
    console.print(table)
    console.print(
        f"{_LEGEND}. AFTER: the deployed team ({_deployed(summary)}). Texts are sampled at temperature 1 where not "
        "greedy: compare AFTER, greedy decoding with one greedy call, trained; AFTER with one sampled call, trained",
        style="dim",
    )
    rates = Table(title="\nSPEAK rate per information set (visits)", title_justify="left", box=SIMPLE_HEAD)
    rates.add_column("seat / information set")
    for name in ("before", "after"):
        rates.add_column(name, justify="right")
    before, after = summary["before"]["speak_rates"], summary["after"]["speak_rates"]
    for key in sorted({**before, **after}):
        cells = [f"{r[key]['speak_rate']:.2f} ({r[key]['visits']})" if key in r else "-" for r in (before, after)]
        rates.add_row(key, *cells)
    console.print(rates)
    _print_refit(console, summary["refit"])
    gain = summary["after"]["accuracy"] - summary["before"]["accuracy"]
    console.print(f"Team accuracy {100 * gain:+.1f} points in {summary['wall_s']:.0f} s.", style="bold")
    _print_near_zero(console, summary["eval_task"], summary["after"], summary["before"])


def _print_refit(console: Console, refit: Mapping[str, Any]) -> None:
    if refit["kind"] != "recording":
        return
    best = "the optimum" if refit["is_optimum"] else "the best policy found"
    console.print(
        f"The controllers were re-fitted on a recording of {refit['questions']} questions"
        f"{'' if refit['fresh'] else ' (seen in training: the split has no others)'}: team return there "
        f"{refit['team_return']:.3f}, {best} {refit['optimum']:.3f} ({len(refit['starts'])} starts: "
        f"{min(refit['starts']):.3f} to {max(refit['starts']):.3f})."
    )


def _deployed(summary: Mapping[str, Any]) -> str:
    if summary["layers"] == "generators":
        return "uniform controllers, trained texts"
    return "greedy average strategy"


def _print_near_zero(
    console: Console, task: str, figures: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> None:
    low, high = figures["accuracy_ci95"]
    if figures["accuracy"] < 0.05 and before is not None and before["accuracy"] >= 0.05:
        console.print("Training has ruined this team: start again with a lower --learning-rate.", style="red")
    elif figures["accuracy"] < 0.05:
        console.print(
            f"Accuracy on {task} is near zero ({_percent(figures['accuracy'])} %, interval {_percent(low)} to "
            f"{_percent(high)}): this model cannot do this task. The run shows that the path works, nothing more.",
            style="yellow",
        )


def print_closing(path: Path) -> None:
    """Say where everything is and how to look at it."""
    print(f"Run directory: {path}")
    print(f"  every dialogue:   {path / 'episodes.jsonl'}")
    print(f"  all figures:      {path / 'summary.json'}")
    print(f"  the trained team: {path / 'final'}")
    print(f"Learning curves:    {sys.executable} -m tensorboard.main --logdir {path / 'tb'}")


def print_evaluation(task: str, figures: Mapping[str, Any]) -> None:
    """Print the figures of one task."""
    console = _console()
    n = figures["team"]["num_questions"]
    table = _table(f"{task} ({figures['split']}): {n} questions")
    labels = {
        "team": f"team ({figures['controllers']})",
        "single_greedy": "one greedy call",
        "single_sampled": "one sampled call",
        "self_consistency_3": "self-consistency of 3",
    }
    for name, label in labels.items():
        _add_row(table, label, figures[name])
    console.print(table)
    console.print(_LEGEND, style="dim")
    _print_near_zero(console, task, figures["team"])


def print_fit(fit: ExactFit, summary: Mapping[str, Any]) -> None:
    """Print what ``tracer fit`` learned: the team return of every start, and of the best one's policies."""
    console = Console()
    returns = list(summary["starts"].values())
    console.print(
        f"{len(returns)} starts, team return {min(returns):.4f} to {max(returns):.4f}; kept: start {fit.start}"
    )
    table = Table(box=SIMPLE_HEAD)
    table.add_column("policy of the best start")
    table.add_column("team return", justify="right")
    for name, value in summary["team_return"].items():
        table.add_row({"last": "last iterate", "greedy": "greedy average"}.get(name, name), f"{value:.4f}")
    console.print(table)


def print_certificate(certificate: Certificate) -> None:
    """Print a certificate: every row, what was measured on a game, and what is not certified."""
    console = Console()
    table = Table(title=f"Regret ({certificate.minimiser})", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for column in ("seat", "information set"):
        table.add_column(column, overflow="fold")
    for column in ("updates", "visits", "G", "bound", "ratio"):
        table.add_column(column, justify="right")
    for row in certificate.rows:
        bound, ratio = ("–", "–") if row.bound is None else (f"{row.bound:.3g}", f"{row.ratio:.3f}")
        key = row.infoset.removeprefix(f"{row.seat.rpartition('_')[0]}|").replace("|", " · ")  # the seat says the role
        cells = (row.seat, key, f"{row.updates:,}", f"{row.visits:,}", f"{row.regret:.3g}")
        table.add_row(*cells, bound, ratio, style=None if row.holds else "bold red")
    console.print(table)
    broken = sum(not row.holds for row in certificate.rows)
    if broken:
        console.print(f"BROKEN: {broken} of {len(certificate.rows)} rows exceed what the algorithm promises.")
    elif certificate.promises == "external":
        console.print(f"All {len(certificate.rows)} bounds hold.")
    elif certificate.promises == "discounted":
        console.print("This algorithm promises nothing about G; its bound on the discounted regret holds.")
    elif certificate.stale:
        console.print(
            f"Approximate: {certificate.stale} updates merged stale increments, so that no bound is promised."
        )
    else:
        console.print("This algorithm promises nothing about G: it forgets.")
    if certificate.game is not None:
        _print_game(console, certificate.game)
    console.print(NOT_CERTIFIED)


def print_cotraining(regret: Mapping[str, float]) -> None:
    """Print how the team followed its values while the generators learned; see ``tracer_agents.drift``."""
    Console().print(
        f"While the generators learned ({regret['updates']:.0f} updates, {regret['decisions']:,.0f} decisions), regret "
        f"per decision was {regret['external']:.3g} against the best control throughout, {regret['windowed']:.3g} in "
        f"the worst {regret['window']:.0f} updates in a row, and {regret['dynamic']:.3g} against the better control of "
        "each update (noise counts as hindsight). No bound holds for the last two."
    )


def print_estimators(rows: Sequence[EstimatorRow]) -> None:
    """Print what was found about the value estimators; see ``tracer_agents.estimators``."""
    console = Console()
    title = "\nEstimators: v(SPEAK) - v(SKIP), estimate - exact"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("estimator")
    table.add_column("sets, 0 inside", justify="right")
    table.add_column(f"bias ({_percent(rows[0].level)} %)", justify="right")
    table.add_column("in set", overflow="fold")
    for row in rows:
        name = f"rollout, M = {row.continuations}" if row.estimator == "rollout" else row.estimator
        interval = f"{row.bias:+.3f} ± {row.half_width:.3f}"
        key = f"{row.seat} {row.infoset.partition('|')[2].replace('|', ' · ')}"
        share = f"{row.contain_zero} of {row.sets}"
        table.add_row(name, share, interval, key, style=None if row.holds else "bold red")
    console.print(table)
    for row in rows:
        if not row.holds:
            console.print(f"BROKEN: {row.estimator} must be unbiased for the team return, and is not.")
    console.print(
        f"Shown is the set that is farthest from holding 0. With {_percent(rows[0].level)} % all intervals of rollout "
        "hold at once, whatever the distribution; exact must be right at every node; local promises nothing: it values "
        "a turn and not what follows."
    )


def _print_game(console: Console, game: CertifiedGame) -> None:
    table = Table(title=f"\nMeasured on {game.task}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("what")
    table.add_column("value", justify="right")
    best = "optimum of the abstraction" if game.is_optimum else "best deterministic policy found"
    table.add_row(f"team return, {best}", f"{game.optimum:.4f}")
    if game.upper_bound > game.optimum + 1e-9:
        table.add_row("no policy of the abstraction has more than", f"{game.upper_bound:.4f}")
    for mode, value in game.team_return.items():
        name = {"last": "last iterate", "average": "average strategy", "greedy": "greedy average strategy"}[mode]
        table.add_row(f"team return, {name} (missing)", f"{value:.4f} ({game.optimum - value:+.4f})")
    table.add_row("largest gain of one information set, last iterate", f"{game.deviation_gain:.2g}")
    for gap in game.coarse_gaps or ():
        kind = "" if gap.exact else "at least "
        table.add_row(f"coarse gap of {gap.seat} over {game.profiles:,} profiles", f"{kind}{gap.gain:.2g}")
    if game.coarse_gaps is None:
        table.add_row("coarse gap", "unknown: the seats' updates do not match")
    table.add_row("information sets that never learned", f"{game.unseen}")
    console.print(table)
