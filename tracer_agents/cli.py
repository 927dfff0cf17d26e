"""The ``tracer`` command. Starts without importing torch; options are made from the settings' own declarations."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import datetime
from difflib import get_close_matches
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tracer_agents.config import PRESETS, SMOKE, TrainConfig
from tracer_agents.controllers.minimisers import MINIMISERS
from tracer_agents.record import RecordPlan
from tracer_env import Costs, Game, OutcomeRewards
from tracer_env.errors import (
    ConfigError,
    DataNotFoundError,
    MissingExtraError,
    RecordingError,
    TracerError,
    UnknownNameError,
)
from tracer_env.registry import names_a_script

if TYPE_CHECKING:
    from tracer_agents.trainers.tracer import Training

__all__ = [
    "Parser",
    "add_train_arguments",
    "certify_command",
    "config_from",
    "eval_command",
    "fit_command",
    "main",
    "play_command",
    "record_command",
    "train_command",
]

Flow = Callable[["Training"], dict[str, Any]]
"""What to do with a prepared run; returns its summary."""

_CONVERTERS = {"int": int, "float": float, "str": str, "str | None": str}


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest option for an unknown one, and takes no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        """Make a parser; ``settings`` are those of ``argparse.ArgumentParser``."""
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and a message that names the nearest option."""
        unknown = [word for word in message.split() if word.startswith("--")]
        if "unrecognized" in message and unknown:
            known = [option for action in self._actions for option in action.option_strings]
            near = get_close_matches(unknown[0].split("=")[0], known, n=1)
            message += f". Did you mean {near[0]}?" if near else f". Known: {' '.join(sorted(known))}"
        super().error(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and report unknown options by the parser of the command they were given to."""
        known, rest = self.parse_known_args(args, namespace)
        if rest:
            getattr(known, "parser", self).error(f"unrecognized arguments: {' '.join(rest)}")
        return known


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training run: one for every setting, and where and how to run."""
    parser.add_argument("--preset", default="recommended", help=f"named settings: {', '.join(PRESETS)}")
    parser.add_argument("--config", metavar="FILE", help="JSON file with settings; options on the command line win")
    parser.add_argument("--run-dir", metavar="DIR", help="where the run is written (default: runs/<task>-<time>)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --run-dir")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, seconds; its figures mean nothing")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")
    for f in fields(TrainConfig):
        doc = f"{f.metadata['doc']} (default: {f.default})"
        # None marks an option that was not given, so that presets and files are not overwritten by defaults
        option: dict[str, Any] = {"default": None, "help": doc.replace("%", "%%")}
        if f.type == "bool":
            option["action"] = argparse.BooleanOptionalAction
        else:
            option["type"] = _CONVERTERS[str(f.type)]
        parser.add_argument("--" + f.name.replace("_", "-"), **option)
    parser.set_defaults(parser=parser)


def config_from(args: argparse.Namespace) -> TrainConfig:
    """Merge defaults, preset, ``--smoke``, ``--config`` and options, each over the ones before.

    Raises:
        ConfigError: if a preset, key or value is unknown or out of range.
    """
    if args.preset not in PRESETS:
        raise UnknownNameError("preset", args.preset, PRESETS)
    settings: dict[str, Any] = {**PRESETS[args.preset], **(SMOKE if args.smoke else {})}
    if args.config is not None:
        from tracer_agents.records import read_json_object

        settings.update(read_json_object(Path(args.config), "no settings were read", ConfigError))
    given = {f.name: getattr(args, f.name) for f in fields(TrainConfig)}
    settings.update({name: value for name, value in given.items() if value is not None})
    return TrainConfig.from_settings(settings)


def _set_threads(threads: int | None) -> None:
    try:
        import torch
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "agents", "running language models") from error

    logging.disable_progress_bar()  # its bars for loading weights would break ours
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads must be at least 1, not {threads}.")
        torch.set_num_threads(threads)


def _run_dir(args: argparse.Namespace, config: TrainConfig) -> Path:
    if args.run_dir is not None:
        return Path(args.run_dir)
    if args.resume:
        raise ConfigError("--resume needs --run-dir: which run shall be continued?")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{Path(config.task).stem}-seed{config.seed}-{stamp}"


def train_command(args: argparse.Namespace, flow: Flow | None = None) -> int:
    """Run ``tracer train``: measure, train both layers, re-fit, measure again, print the table.

    Args:
        args: parsed options of ``add_train_arguments``.
        flow: what to do with the prepared run; by default ``Training.run_all``.

    Returns:
        The exit status: 0, or 130 after an interrupt (a checkpoint is on the disk).
    """
    from tracer_agents.assembly import make_games
    from tracer_agents.records import RunDirectory
    from tracer_agents.refit import kind_of_refit
    from tracer_agents.report import TrainProgress, print_closing, print_results

    config = config_from(args)
    run = RunDirectory(_run_dir(args, config))
    if args.resume and run.summary is not None:
        run.open(config, resume=True)
        print(f"{run.path} is finished; nothing to do.")
        return 0
    run.check_free(resume=args.resume)
    game, _ = make_games(config)  # an unknown task or option is an error now, not after half a minute of imports
    kind_of_refit(config, game)
    print("Loading torch, transformers and TRL ...", flush=True)
    with TrainProgress() as progress:
        try:
            _set_threads(args.threads)
            from tracer_agents.trainers.tracer import Training

            training = Training(config, run, resume=args.resume, progress=progress)
            summary = training.run_all() if flow is None else flow(training)
        except KeyboardInterrupt:
            progress.stop()
            saved = run.latest_checkpoint()
            where = "before the first checkpoint" if saved is None else f"the checkpoint {saved} is on the disk"
            print(f"\nInterrupted; {where}. Continue with the same options and: --run-dir {run.path} --resume")
            print(f'(through make: make train ARGS="... --run-dir {run.path} --resume")')
            return 130
    print_results(summary)
    print_closing(run.path)
    return 0


def _add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", nargs="+", help="task names or JSONL paths (default: the run's, else arithmetic)")
    parser.add_argument("--split", help="which questions (default: the run's held-out ones, else test)")
    parser.add_argument("--data-dir", help="folder with the tasks' data (else TRACER_DATA_DIR, else the hub)")
    parser.add_argument("--run", metavar="DIR", help="a finished training run: its team is evaluated")
    parser.add_argument("--model", help="local model folder or hub id without --run (default: the shipped model)")
    fixed = "always, never, random or propose_review_revise"
    parser.add_argument("--controllers", default=None, help=f"{fixed} instead of the run's own")
    parser.add_argument("--questions", type=int, default=128, help="questions per task (default: 128)")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature; 0 is greedy (default: 1)")
    parser.add_argument("--max-new-tokens", type=int, default=None, help="longest utterance in tokens")
    parser.add_argument("--batch-size", type=int, default=None, help="texts per generation batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument("--out", metavar="FILE", help="write the figures there as JSON")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")
    parser.set_defaults(parser=parser)


def eval_command(args: argparse.Namespace) -> int:
    """Run ``tracer eval``: measure a model or a trained team on one or more tasks.

    Returns:
        The exit status.
    """
    from tracer_agents.evaluate import evaluate_tasks
    from tracer_agents.records import write_json
    from tracer_agents.report import print_evaluation

    out = None if args.out is None else Path(args.out)
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: {out.parent} is not a folder.")
    if out is not None and out.is_dir():
        raise ConfigError(f"cannot write {out}: it is a folder. Name a file in it.")
    _set_threads(args.threads)
    results = {}
    for task, figures in evaluate_tasks(
        args.task,
        split=args.split,
        data_dir=args.data_dir,
        run=args.run,
        model=args.model,
        controllers=args.controllers,
        num_questions=args.questions,
        temperature=args.temperature,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
    ):
        results[task] = figures
        print_evaluation(task, figures)
        if out is not None:
            write_json(out, results)  # after every task, so that an interruption loses nothing
    return 0


def _add_record_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", required=True, help="the file to make, ending in .npz")
    parser.add_argument("--task", default="arithmetic", help="task name or JSONL path (default: arithmetic)")
    parser.add_argument("--split", help="which questions (default: train)")
    parser.add_argument("--data-dir", help="folder with the task's data (else TRACER_DATA_DIR, else the hub)")
    parser.add_argument("--questions", type=int, default=512, help="how many questions (default: 512)")
    parser.add_argument("--run", metavar="DIR", help="a finished training run: its team is recorded")
    parser.add_argument("--model", help="local model folder or hub id (default: the run's, else the shipped model)")
    parser.add_argument("--decide", help="last: a tree of all controls; ballot: a pool (default: last)")
    parser.add_argument("--proposers", type=int, help="number of proposers (default: the run's, else 1)")
    parser.add_argument("--reviewers", type=int, help="number of reviewers (default: the run's, else 1)")
    parser.add_argument("--rounds", type=int, help="rounds of the game (default: the run's, else 5)")
    parser.add_argument("--schedule", help="round_robin, simultaneous or reference (default: the run's)")
    for name, what in (
        ("replicates", "whole trees of each question"),
        ("candidates", "candidates at each node; the first is played on"),
        ("proposals", "independent first proposals of each question; the pool of a ballot"),
        ("reviews", "reviews of each pool proposal (ballot only)"),
        ("chunk", "questions recorded together; an interruption loses at most one chunk"),
        ("seed", "seed of everything"),
    ):
        default = getattr(RecordPlan, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature, above 0 (default: 1)")
    parser.add_argument("--max-new-tokens", type=int, help="longest utterance in tokens")
    parser.add_argument("--batch-size", type=int, help="texts per generation batch")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")
    parser.set_defaults(parser=parser)


def record_command(args: argparse.Namespace) -> int:
    """Run ``tracer record``: write the complete control tree, or the ballot pool, of every question into one file.

    Returns:
        The exit status: 0, or 130 after an interrupt (finished chunks are on the disk).
    """
    from tracer_agents.record import record_with_model
    from tracer_agents.report import RecordProgress

    out = Path(args.out)
    names = RecordPlan.__dataclass_fields__
    plan = RecordPlan(**{name: getattr(args, name) for name in names})
    with RecordProgress() as progress:
        try:
            record_with_model(
                args.task,
                out,
                plan=plan,
                num_questions=args.questions,
                split=args.split,
                data_dir=args.data_dir,
                run=args.run,
                model=args.model,
                max_new_tokens=args.max_new_tokens,
                batch_size=args.batch_size,
                before_loading=lambda: _set_threads(args.threads),
                on_chunk=progress.step,
                decide=args.decide,
                proposers=args.proposers,
                reviewers=args.reviewers,
                rounds=args.rounds,
                schedule=args.schedule,
            )
        except KeyboardInterrupt:
            progress.stop()
            print(f"\nInterrupted. The same command goes on from {out}.parts.")
            return 130
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB). Play it with task='recorded:{out}'.")
    return 0


def _add_play_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seat", nargs="+", default=["proposer_0"], help="your seats, or all (default: proposer_0)")
    task_help = "task name, recorded:NAME, simulated:NAME or JSONL path (default: the run's, else arithmetic)"
    parser.add_argument("--task", help=task_help)
    parser.add_argument("--split", help="which questions (default: the run's held-out ones, else test)")
    parser.add_argument("--data-dir", help="folder with the task's data (else TRACER_DATA_DIR, else the hub)")
    parser.add_argument("--index", type=int, help="number of the question (default: drawn by the seed)")
    parser.add_argument("--seed", type=int, help="seed of everything (default: another one each time)")
    parser.add_argument("--proposers", type=int, help="number of proposers (default: the run's or task's, else 1)")
    parser.add_argument("--reviewers", type=int, help="number of reviewers (default: the run's or task's, else 1)")
    parser.add_argument("--rounds", type=int, help="rounds of the game (default: the run's or task's, else 5)")
    parser.add_argument("--schedule", help="round_robin, simultaneous or reference (default: the run's or task's)")
    parser.add_argument("--run", metavar="DIR", help="a finished training run: its team takes the other seats")
    parser.add_argument("--model", help="local model folder or hub id for the other seats (default: the shipped model)")
    fixed = "always, never, random or propose_review_revise"
    parser.add_argument("--controllers", help=f"of the other seats: {fixed} (default: run's or always)")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature; 0 is greedy (default: 1)")
    parser.add_argument("--max-new-tokens", type=int, help="longest utterance of the model in tokens")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")
    parser.set_defaults(parser=parser)


def play_command(args: argparse.Namespace) -> int:
    """Run ``tracer play``: a person takes seats in one game.

    Returns:
        The exit status: 0, or 130 when the person left before the end.
    """
    from rich.console import Console

    from tracer_agents.play import play_in_terminal

    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() the arrow keys
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a person's or a model's text never ends the game
    try:
        play_in_terminal(
            input,
            Console(),
            seats=args.seat,
            task=args.task,
            split=args.split,
            data_dir=args.data_dir,
            index=args.index,
            seed=args.seed,
            run=args.run,
            model=args.model,
            controllers=args.controllers,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
            before_loading=lambda: _set_threads(args.threads),
            proposers=args.proposers,
            reviewers=args.reviewers,
            rounds=args.rounds,
            schedule=args.schedule,
        )
    except (EOFError, KeyboardInterrupt):
        print("\nYou left the game.")
        return 130
    return 0


def _add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", default="recorded:arithmetic-train", help="recorded:NAME or FILE, or simulated:NAME")
    parser.add_argument("--out", metavar="DIR", help="where the controllers are written (default: nowhere)")
    parser.add_argument("--minimiser", default="regret_matching", help=f"one of: {', '.join(MINIMISERS)}")
    parser.add_argument("--averaging", help="uniform, linear or quadratic (default: the minimiser's usual one)")
    parser.add_argument("--abstraction", default="paper", help="paper, round, history or ballot (default: paper)")
    parser.add_argument("--weighting", default="visit", help="of increments: visit or counterfactual (default: visit)")
    parser.add_argument("--alternating", action="store_true", help="one seat updates after the other")
    parser.add_argument("--iterations", type=int, default=300, help="updates of every set (default: 300)")
    parser.add_argument("--starts", type=int, default=8, help="random starts, of which the best is kept (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the first start; the next ones follow (default: 0)")
    parser.add_argument("--cost-per-call", type=float, default=0.0, help="of an utterance (default: 0)")
    parser.add_argument("--cost-per-1k-tokens", type=float, default=0.0, help="of generated tokens (default: 0)")
    parser.set_defaults(parser=parser)


def fit_command(args: argparse.Namespace) -> int:
    """Run ``tracer fit``: learn the controllers of a recorded or simulated game with exact values.

    Returns:
        The exit status.
    """
    from tracer_agents.controllers.storage import save_controllers
    from tracer_agents.fit import best_start
    from tracer_agents.records import software, write_json
    from tracer_agents.report import print_fit
    from tracer_env.exact import build_tree, evaluate

    out = None if args.out is None else Path(args.out)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already. Name another folder with --out, or remove it.")
    if args.starts < 1:
        raise ConfigError(f"--starts must be at least 1, not {args.starts}.")
    settings = {name: getattr(args, name) for name in _FIT_SETTINGS}
    tree = build_tree(_fitted_game(args.task, settings))
    fit, returns = best_start(
        tree,
        args.minimiser,
        starts=range(args.seed, args.seed + args.starts),
        iterations=args.iterations,
        averaging=args.averaging,
        weighting=args.weighting,
        alternating=args.alternating,
    )
    policies = {"last": fit.last, "average": fit.average, "greedy": fit.greedy}
    summary = {
        "starts": dict(zip(map(str, range(args.seed, args.seed + args.starts)), returns, strict=True)),
        "start": fit.start,
        "team_return": {name: evaluate(tree, policy).team_return for name, policy in policies.items()},
    }
    print_fit(fit, summary)
    if out is not None:
        (out / "final").mkdir(parents=True, exist_ok=True)
        save_controllers(out / "final" / "controllers.npz", fit.controllers())
        write_json(out / "config.json", {"task": args.task, **settings})
        write_json(out / "manifest.json", software())
        write_json(out / "summary.json", summary)
        print(f"Written to {out}. Its certificate: tracer certify {out}")
    return 0


_FIT_SETTINGS = (
    "minimiser", "averaging", "abstraction", "weighting", "alternating", "iterations", "starts", "seed",
    "cost_per_call", "cost_per_1k_tokens",
)  # fmt: skip


def _fitted_game(task: str, settings: Mapping[str, Any]) -> Game:
    missing = [name for name in ("cost_per_call", "cost_per_1k_tokens", "abstraction") if name not in settings]
    if missing:
        raise ConfigError(f"the run's config.json has no {missing}: it was not written by tracer train or tracer fit.")
    costs = Costs(per_call=settings["cost_per_call"], per_1k_tokens=settings["cost_per_1k_tokens"])
    return Game(task, abstraction=settings["abstraction"], rewards=OutcomeRewards(costs=costs))


def _task_fitted_on(run: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str | None:
    """Return the recorded or simulated game that a run's controllers were fitted on, or None."""
    if names_a_script(config.get("task")):
        return str(config["task"])
    re_fitted = summary.get("refit", {}).get("kind") == "recording"
    return f"recorded:{run / 'refit.npz'}" if re_fitted else None


def _add_certify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of tracer train or tracer fit")
    parser.add_argument("--on", metavar="TASK", help="recorded or simulated game to measure (default: the fitted one)")
    estimators_help = "also check the value estimators on that game, in N dialogues (default: 3000)"
    parser.add_argument("--estimators", metavar="N", nargs="?", const=3000, type=int, help=estimators_help)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw regrets and bounds (png, svg or pdf)")
    parser.set_defaults(parser=parser)


def certify_command(args: argparse.Namespace) -> int:
    """Run ``tracer certify``: check what a run's controllers promise, and measure the rest on a game.

    Returns:
        The exit status: 1 when a bound that must hold does not, or an estimator that must be unbiased is not.
    """
    from tracer_agents.certify import certify, plot_regret
    from tracer_agents.controllers.storage import load_controllers
    from tracer_agents.controllers.table import FrozenController
    from tracer_agents.errors import CertificateError, RunDirectoryError
    from tracer_agents.estimators import certify_estimators
    from tracer_agents.records import RunDirectory, read_json_object
    from tracer_agents.report import print_certificate, print_cotraining, print_estimators
    from tracer_env.exact import build_tree

    run = Path(args.run)
    problem = "it is no folder of tracer train or tracer fit"
    config = read_json_object(run / "config.json", problem, RunDirectoryError)
    path = run / "final" / "controllers.npz"
    if not path.is_file():
        raise RunDirectoryError(f"{path} is not there: the run is not finished, or trained no controllers.")
    controllers = load_controllers(path)
    summary = RunDirectory(run).summary or {}
    game, task = None, args.on or _task_fitted_on(run, config, summary)
    if task is not None:
        try:
            game = _fitted_game(task, config)
        except (RecordingError, DataNotFoundError) as error:
            if args.on:
                raise
            print(f"note: {error} The bounds are certified without it; --on names another game.", file=sys.stderr)
    if game is None and args.estimators is not None:
        raise CertificateError("estimators are checked on a game with exact values: name one with --on.")
    tree = None if game is None else build_tree(game)
    certificate = certify(controllers, tree, task or "")
    estimators = []
    if args.estimators is not None and game is not None and tree is not None:
        estimators = certify_estimators(
            game,
            tree,
            {name: FrozenController(c, "last") for name, c in controllers.items()},
            dialogues=args.estimators,
            continuations=config.get("continuations", 1),
        )
    if args.plot is not None:
        plot_regret(controllers, args.plot)
    if args.json:
        found = {"estimators": [asdict(row) | {"holds": row.holds} for row in estimators]} if estimators else {}
        print(json.dumps(certificate.to_json() | found, indent=1))
    else:
        print_certificate(certificate)
        if estimators:
            print_estimators(estimators)
        if "cotraining_regret" in summary:
            print_cotraining(summary["cotraining_regret"])
    return 0 if certificate.holds and all(row.holds for row in estimators) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the program's name; ``sys.argv`` by default.

    Returns:
        The exit status: 0, 2 for a wrong argument, 1 for an error of the library, 130 after an interrupt.
    """
    parser = Parser(prog="tracer", description="Train, evaluate and join teams of language models that solve problems.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    train = commands.add_parser("train", help="train both layers of a team and measure it before and after")
    add_train_arguments(train)
    train.set_defaults(run_command=train_command)
    evaluate = commands.add_parser("eval", help="measure a model or a trained team")
    _add_eval_arguments(evaluate)
    evaluate.set_defaults(run_command=eval_command)
    record = commands.add_parser("record", help="record a game: every control of every question, in one file")
    _add_record_arguments(record)
    record.set_defaults(run_command=record_command)
    play = commands.add_parser("play", help="take a seat in one game yourself")
    _add_play_arguments(play)
    play.set_defaults(run_command=play_command)
    fit = commands.add_parser("fit", help="learn the controllers of a recorded or simulated game, without a model")
    _add_fit_arguments(fit)
    fit.set_defaults(run_command=fit_command)
    certify = commands.add_parser("certify", help="check what the controllers of a run promise")
    _add_certify_arguments(certify)
    certify.set_defaults(run_command=certify_command)
    args = parser.parse_args(argv)
    return run(args)


def run(args: argparse.Namespace) -> int:
    """Run a parsed command; an error of the library is one line on standard error, not a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return int(args.run_command(args))
    except TracerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
