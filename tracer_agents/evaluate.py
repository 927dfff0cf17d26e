"""Evaluation: a team, and the single-agent baselines that always stand beside it, on the same questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracer_agents.config import TrainConfig
from tracer_agents.controllers.fixed import make_fixed
from tracer_agents.controllers.storage import load_controllers
from tracer_agents.controllers.table import FrozenController
from tracer_agents.errors import RunDirectoryError
from tracer_agents.interfaces import Candidate, Controller, Generator, Request
from tracer_agents.records import RunDirectory
from tracer_agents.rollout import Episode, Player, play
from tracer_env import Action, Control, DialogueState, Game, Question, Role, Rules, Seat, summarize
from tracer_env.dialogue import advance, initial_state
from tracer_env.errors import ConfigError

__all__ = [
    "config_of_run",
    "controllers_of",
    "evaluate_tasks",
    "evaluate_team",
    "self_consistency",
    "single_call",
    "speak_rates",
]

Progress = Callable[[int, int], None]


def speak_rates(episodes: Iterable[Episode]) -> dict[str, dict[str, float]]:
    """Return for every ``<seat>/<infoset>`` how often it was visited and how often the seat spoke there."""
    counts: dict[str, list[int]] = {}
    for episode in episodes:
        for decision in episode.decisions:
            count = counts.setdefault(f"{decision.seat.name}/{decision.infoset}", [0, 0])
            count[0] += 1
            count[1] += decision.control is Control.SPEAK
    return {key: {"visits": n, "speak_rate": spoke / n} for key, (n, spoke) in sorted(counts.items())}


def evaluate_team(
    game: Game,
    team: Mapping[Seat, Player],
    generator: Generator | None,
    questions: Sequence[Question],
    *,
    seed: int,
    temperature: float = 1.0,
    on_round: Progress | None = None,
) -> tuple[dict[str, Any], list[Episode]]:
    """Play one dialogue per question and sum them up.

    Returns:
        The figures of ``tracer_env.summarize`` with ``team_return`` (mean U), ``speak_rates``, ``prompts_cut``
        and ``truncated_texts`` (how many texts had a shortened prompt, or stopped at the length limit); and the
        episodes.
    """
    episodes = play(game, team, generator, questions, seed=seed, temperature=temperature, on_round=on_round)
    states = [episode.state for episode in episodes]
    figures = summarize(states)
    figures["team_return"] = sum(game.team_return(state) for state in states) / len(states)
    figures["speak_rates"] = speak_rates(episodes)
    figures["prompts_cut"] = sum(e.prompts_cut for e in episodes)
    figures["truncated_texts"] = sum(e.truncated for e in episodes)
    return figures, episodes


def _single_rules(game: Game) -> Rules:
    """One proposer, one round: a single call is the smallest game, so it is counted by the same rules."""
    return replace(
        game.rules,
        proposers=1,
        reviewers=0,
        rounds=1,
        schedule="round_robin",
        on_invalid="keep",
        stop_after_skips=None,
        token_budget=None,
    )


def _ask(
    game: Game, policy: str, generator: Generator, questions: Sequence[Question], samples: int, temperature: float
) -> list[list[Candidate]]:
    seat = Seat(Role.PROPOSER, 0)
    requests = [
        Request(prompt=game.prompt(initial_state(q), seat), policy=policy, role=Role.PROPOSER, temperature=temperature)
        for q in questions
    ]
    flat = generator.generate([r for r in requests for _ in range(samples)])
    return [flat[k * samples : (k + 1) * samples] for k in range(len(questions))]


def single_call(
    game: Game, policy: str, generator: Generator, questions: Sequence[Question], *, temperature: float
) -> dict[str, Any]:
    """Ask the proposer once per question: the first proposal of the game, and nothing else.

    Args:
        game: gives prompts, answers and counting.
        policy: the policy that answers.
        generator: writes the texts.
        questions: what to ask.
        temperature: 0 is greedy.

    Returns:
        The figures of ``tracer_env.summarize``.
    """
    rules, seat = _single_rules(game), Seat(Role.PROPOSER, 0)
    states = [
        advance(rules, game.task, initial_state(q), {seat: Action(Control.SPEAK, candidates[0].utterance)})
        for q, candidates in zip(questions, _ask(game, policy, generator, questions, 1, temperature), strict=True)
    ]
    return summarize(states)


def self_consistency(
    game: Game, policy: str, generator: Generator, questions: Sequence[Question], *, samples: int = 3
) -> dict[str, Any]:
    """Ask the proposer several times at temperature 1 and take the answer given most often (the earliest in a tie).

    It is played as one simultaneous round of ``samples`` proposers who all read the question only, so that ballots
    are counted by the rules of the game. Tokens and calls are those of all samples.

    Source: Wang et al., "Self-Consistency Improves Chain of Thought Reasoning" (2022).
    """
    rules = replace(_single_rules(game), proposers=samples, schedule="simultaneous")
    asked = _ask(game, policy, generator, questions, samples, 1.0)
    states: list[DialogueState] = []
    for question, candidates in zip(questions, asked, strict=True):
        actions = {seat: Action(Control.SPEAK, c.utterance) for seat, c in zip(rules.seats, candidates, strict=True)}
        states.append(advance(rules, game.task, initial_state(question), actions))
    return summarize(states)


def evaluate_tasks(
    tasks: Sequence[str] | None = None,
    *,
    split: str | None = None,
    data_dir: str | None = None,
    run: str | None = None,
    model: str | None = None,
    controllers: str | None = None,
    num_questions: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure a trained team, or a plain model in the seats of the default team, on one or more tasks.

    All data is looked up before the model is loaded; then each task's figures come as soon as they are there.

    Args:
        tasks: task names or JSONL paths; what the run was evaluated on by default, else arithmetic.
        split: which questions; the run's held-out ones by default.
        data_dir: folder with the tasks' data; the run's by default.
        run: a finished run directory: its model, adapters, controllers and rules are used.
        model: model folder or hub id; the run's by default, else the shipped one.
        controllers: ``"always"``, ``"never"`` or ``"random"`` instead of the run's; without a run, always by default.
        num_questions: per task, at least 1; a finite task gives at most what it has.
        temperature: of every utterance of the team.
        seed: seed of everything.
        max_new_tokens: longest utterance; the run's by default.
        batch_size: texts per generation batch; the run's by default.

    Yields:
        A task and its ``split``, ``controllers``, ``run``, ``model``, ``seed``, ``temperature``, ``team``,
        ``single_greedy``, ``single_sampled`` and ``self_consistency_3``.

    Raises:
        ConfigError: if a number is out of range.
        RunDirectoryError: if ``run`` is not a finished run.
        DataNotFoundError: if the data of one of the tasks cannot be found.
        ModelFolderError: if the model cannot be loaded.
    """
    from tracer_agents.assembly import evaluation_questions, load_generator, make_game, make_team, policy_of

    if num_questions < 1:
        raise ConfigError(f"the number of questions must be at least 1, not {num_questions}.")
    if not temperature >= 0:
        raise ConfigError(f"the temperature must be at least 0, not {temperature!r}.")
    config = TrainConfig() if run is None else config_of_run(Path(run))
    changes = {
        "data_dir": data_dir, "model": model, "seed": seed, "max_new_tokens": max_new_tokens, "batch_size": batch_size
    }  # fmt: skip
    config = TrainConfig.from_settings({k: v for k, v in changes.items() if v is not None}, config)
    chosen, split = list(tasks or [config.evaluated_task]), split or config.eval_split
    games = {task: make_game(config, task=task, split=split) for task in chosen}
    questions = {task: evaluation_questions(game, num_questions) for task, game in games.items()}
    seats = Rules(proposers=config.proposers, reviewers=config.reviewers).seats
    label, team_of = controllers_of(config, seats, run, controllers)
    policies = tuple(dict.fromkeys(policy_of(config, seat) for seat in seats))
    model_with_policies, _, generator = load_generator(config, policies, seed=0)
    if run is not None:
        from tracer_agents.generators.policies import load_policies

        load_policies(model_with_policies, Path(run) / "final" / "adapters", policies)
    proposer = policy_of(config, seats[0])

    def reseeded() -> Generator:
        generator.reseed(seed)  # before each figure, so that none depends on what the others drew
        return generator

    for task, game in games.items():
        team, asked = make_team(config, game, team_of), questions[task]
        figures, _ = evaluate_team(game, team, reseeded(), asked, seed=seed, temperature=temperature)
        yield (
            task,
            {
                "split": split,
                "controllers": label,
                "run": run,
                "model": "shipped" if config.model is None else config.model,
                "seed": seed,
                "temperature": temperature,
                "team": figures,
                "single_greedy": single_call(game, proposer, reseeded(), asked, temperature=0.0),
                "single_sampled": single_call(game, proposer, reseeded(), asked, temperature=1.0),
                "self_consistency_3": self_consistency(game, proposer, reseeded(), asked),
            },
        )


def config_of_run(path: Path) -> TrainConfig:
    """Return the settings of a finished run.

    Raises:
        RunDirectoryError: if ``path`` is not a finished run.
    """
    run = RunDirectory(path)
    settings = run.settings()
    if run.summary is None:
        raise RunDirectoryError(f"{path} is not a finished run: it has no summary.json. Continue it with --resume.")
    return TrainConfig.from_settings(settings)


def controllers_of(
    config: TrainConfig, seats: Sequence[Seat], run: str | None, name: str | None
) -> tuple[str, dict[str, Controller]]:
    """Return what is evaluated, as a label and by seat name: the fixed controllers asked for, else the run's own."""
    if name is None and run is not None and config.trains_controllers:
        learned = load_controllers(Path(run) / "final" / "controllers.npz", [seat.name for seat in seats])
        return "trained", {seat: FrozenController(c, "greedy") for seat, c in learned.items()}
    fixed = name or ("always" if run is None else "random")  # a run that trained generators only played uniformly
    return fixed, {seat.name: make_fixed(fixed) for seat in seats}
