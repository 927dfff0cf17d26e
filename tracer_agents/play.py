"""A game in the terminal, with a person on any of the seats.

Owns who acts for which seat and how a person is asked; what a dialogue looks like is in ``tracer_env/rendering.py``.
Loads torch only when a model takes a seat.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console  # noqa: TID253 - this module is the command line's face
from rich.table import Table  # noqa: TID253
from rich.text import Text  # noqa: TID253

from tracer_agents.assembly import load_generator, make_team, policy_of
from tracer_agents.config import TrainConfig
from tracer_agents.evaluate import config_of_run, controllers_of
from tracer_agents.interfaces import Generator, Request
from tracer_agents.rollout import Player
from tracer_env import Action, Control, DialogueState, Game, Question, Seat, Utterance
from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.infosets import feature_vector
from tracer_env.registry import names_a_file, names_a_script
from tracer_env.rendering import clean, show

__all__ = ["Act", "Machine", "Person", "choose_seats", "play_game", "play_in_terminal"]

Act = Callable[[DialogueState, Seat], Action]
"""Decides what a seat does in a state in which it acts."""

Ask = Callable[[str], str]
"""Shows a prompt and returns a line, as ``input`` does; raises EOFError when there are no more lines."""

_END = ("", ".")
_WORDS = {"s": Control.SPEAK, "speak": Control.SPEAK, "k": Control.SKIP, "skip": Control.SKIP}


class Person:
    """Asks a person for a seat's control and text."""

    def __init__(self, game: Game, ask: Ask, console: Console) -> None:
        """Remember the game, and where to ask and to print."""
        self._game, self._ask, self._console = game, ask, console

    def __call__(self, state: DialogueState, seat: Seat) -> Action:
        """Say whose turn it is and what the task is, and ask until there is an action."""
        task = self._game.prompt(state, seat).sections[-1].body.strip()
        turn = f", it is your turn (round {state.round + 1} of {self._game.rules.rounds}). {clean(task)}"
        self._console.print()
        self._console.print(Text.assemble((seat.name, "bold"), turn))
        if self._control(state, seat) is Control.SKIP:
            return Action(Control.SKIP)
        return Action(Control.SPEAK, Utterance("" if self._game.scripted else self._text()))

    def _control(self, state: DialogueState, seat: Seat) -> Control:
        if not self._game.mask(state, seat)[Control.SKIP]:
            self._hint("You must speak: no answer stands yet.")
            return Control.SPEAK
        while True:
            word = self._ask("speak or skip? [s/k] ").strip().lower()
            if word in _WORDS:
                return _WORDS[word]
            self._hint("Type s to speak or k to skip.")

    def _text(self) -> str:
        self._hint("Your text; an empty line, or a line with a dot alone, ends it.")
        lines: list[str] = []
        while (line := self._ask("> ")).strip() not in _END or not lines:
            if line.strip() in _END:
                self._hint("Write at least one line.")
            else:
                lines.append(line)
        return "\n".join(lines)

    def _hint(self, hint: str) -> None:
        self._console.print(Text(hint, style="dim"))


class Machine:
    """A controller decides for a seat, and a generator writes its texts."""

    def __init__(
        self,
        game: Game,
        player: Player,
        generator: Generator | None,
        rng: np.random.Generator,
        console: Console,
        *,
        temperature: float = 1.0,
    ) -> None:
        """Put the parts together.

        Args:
            game: gives prompts, masks and information sets.
            player: the seat's policy and controller.
            generator: writes the texts; None when the task brings them itself.
            rng: draws the controls.
            console: shows that a text is being written.
            temperature: sampling temperature; 0 is greedy.
        """
        self._game, self._player, self._generator, self._rng = game, player, generator, rng
        self._console, self._temperature = console, temperature

    def __call__(self, state: DialogueState, seat: Seat) -> Action:
        """Draw the control, before any text exists, and have the text written."""
        mask = self._game.mask(state, seat)
        if mask[Control.SKIP]:
            features = feature_vector(self._game.rules, state, seat)
            speak_prob = self._player.controller.speak_prob(self._game.infoset(state, seat), features, mask)
            if self._rng.random() >= speak_prob:
                return Action(Control.SKIP)
        if self._generator is None:
            return Action(Control.SPEAK)
        prompt = self._game.prompt(state, seat)
        request = Request(prompt=prompt, policy=self._player.policy, role=seat.role, temperature=self._temperature)
        with self._console.status(f"{seat.name} is writing ..."):
            return Action(Control.SPEAK, self._generator.generate([request])[0].utterance)


def choose_seats(game: Game, names: Iterable[str]) -> tuple[Seat, ...]:
    """Return the seats with these names, or every seat for ``all``.

    Raises:
        UnknownNameError: if no seat has one of the names; the nearest is named.
    """
    seats = {seat.name: seat for seat in game.rules.seats}
    chosen: dict[Seat, None] = {}
    for name in names:
        if name not in (*seats, "all"):
            raise UnknownNameError("seat", name, (*seats, "all"))
        chosen.update(dict.fromkeys(game.rules.seats if name == "all" else [seats[name]]))
    return tuple(chosen)


def play_game(
    game: Game, question: Question, acts: Mapping[Seat, Act], console: Console
) -> tuple[DialogueState, dict[Seat, float]]:
    """Play one dialogue and print each round when it is finished: of a simultaneous round nobody sees the others.

    Args:
        game: rules, rewards and prompts.
        question: what is asked.
        acts: who acts for each seat.
        console: where the dialogue is printed.

    Returns:
        The finished game, and what each seat was paid in all.
    """
    state = game.start(question)
    returns = dict.fromkeys(game.rules.seats, 0.0)
    show(state, console)
    while seats := game.acting(state):
        before, state = state, game.advance(state, {seat: acts[seat](state, seat) for seat in seats})
        for seat, value in game.pay(before, state).items():
            returns[seat] += value
        show(state, console)
    return state, returns


def play_in_terminal(
    ask: Ask,
    console: Console,
    *,
    seats: Iterable[str] = ("proposer_0",),
    task: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    index: int | None = None,
    seed: int | None = None,
    run: str | None = None,
    model: str | None = None,
    controllers: str | None = None,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    before_loading: Callable[[], None] = lambda: None,
    **rules: Any,
) -> None:
    """Play one game with a person on some seats, and print the dialogue, the outcome and the rewards.

    Args:
        ask: asks the person.
        console: where everything is printed.
        seats: names of the person's seats, or ``all``.
        task: task name or JSONL path; what the run was evaluated on by default, else arithmetic.
        split: which questions; the run's held-out ones by default, else test.
        data_dir: folder with the task's data; the run's by default.
        index: number of the question; drawn by default.
        seed: of the question, the controls and the texts; another one each time by default.
        run: a finished run directory: its model, adapters, controllers and rules are used.
        model: model folder or hub id of the other seats; the run's by default, else the shipped one.
        controllers: ``"always"``, ``"never"`` or ``"random"`` for the other seats; the run's by default, else always.
        temperature: of the model's utterances; 0 is greedy.
        max_new_tokens: longest utterance of the model; the run's by default.
        before_loading: called before torch is imported.
        **rules: fields of ``Rules``; None stands for the run's or the task's own.

    Raises:
        UnknownNameError: if a seat, task or controller is unknown.
        EOFError: if the person has left.
    """
    if not temperature >= 0:
        raise ConfigError(f"the temperature must be at least 0, not {temperature!r}.")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    changes = {"model": model, "seed": seed, "max_new_tokens": max_new_tokens}
    config = TrainConfig() if run is None else config_of_run(Path(run))
    config = TrainConfig.from_settings({k: v for k, v in changes.items() if v is not None}, config)
    game = _make_game(config, task or config.evaluated_task, split, data_dir, () if run is None else _RUN_RULES, rules)
    if game.scripted:
        written = {"model": model, "max_new_tokens": max_new_tokens, "temperature": None if temperature == 1.0 else 1}
        for name, value in written.items():
            if value is not None:
                raise ConfigError(f"task {game.task.name!r} brings its texts itself; leave {name} out.")
    people = choose_seats(game, seats)
    others = [seat for seat in game.rules.seats if seat not in people]
    _, team_of = controllers_of(config, game.rules.seats, run, controllers)
    team = make_team(config, game, team_of)
    rng = np.random.default_rng(seed)
    question = game.draw_question(rng, {} if index is None else {"index": index})
    generator = None
    if others and not game.scripted:
        console.print(Text("Loading the model ...", "dim"))
        before_loading()
        generator = _load(config, run, tuple(dict.fromkeys(policy_of(config, seat) for seat in others)))
        generator.reseed(seed)
    person = Person(game, ask, console)
    acts: dict[Seat, Act] = dict.fromkeys(people, person)
    acts |= {seat: Machine(game, team[seat], generator, rng, console, temperature=temperature) for seat in others}
    yours = ", ".join(seat.name for seat in people)
    console.print(Text(f"{game.task.name}, split {game.task.split}, seed {seed}. You are {yours}.", "dim"))
    _, returns = play_game(game, question, acts, console)
    _print_rewards(game, returns, people, console)


_RUN_RULES = ("proposers", "reviewers", "rounds", "schedule", "on_invalid")


def _make_game(
    config: TrainConfig,
    task: str,
    split: str | None,
    data_dir: str | None,
    own: Sequence[str],
    given: Mapping[str, Any],
) -> Game:
    """Make the game with the rules that are given, else with the configuration's ``own``, else with the task's."""
    scripted = names_a_script(task)  # recorded and simulated games have no splits
    has_data = task == "arithmetic" or scripted or names_a_file(task)
    rules = {name: getattr(config, name) for name in own}
    rules |= {name: value for name, value in given.items() if value is not None}
    return Game(
        task,
        split=split or (None if scripted else config.eval_split),
        data_dir=None if has_data else data_dir or config.data_dir,
        abstraction=config.abstraction,
        **rules,
    )


def _load(config: TrainConfig, run: str | None, policies: Sequence[str]) -> Generator:
    model, _, generator = load_generator(config, policies, seed=0)
    if run is not None:
        from tracer_agents.generators.policies import load_policies

        load_policies(model, Path(run) / "final" / "adapters", policies)
    return generator


def _print_rewards(game: Game, returns: Mapping[Seat, float], people: Sequence[Seat], console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for seat, value in returns.items():
        table.add_row("", Text(seat.name), Text(f"{value:+.2f}", "bold"), Text("you" if seat in people else "", "dim"))
    console.print(Text(f"\nRewards of the whole game ({game.rewards.name}):", "dim"))
    console.print(table)
