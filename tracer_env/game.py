"""One configured game: task, rules, rewards and abstraction, and everything the two faces share.

Holds constants only; what changes lives in ``DialogueState``. Learners that play many dialogues at once use it
directly, without a PettingZoo face.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import numpy as np

from tracer_env.dialogue import acting_seats, advance, check_rules, control_mask, initial_state, judged_proposal
from tracer_env.errors import ActionError, ConfigError, UnknownNameError
from tracer_env.infosets import ABSTRACTIONS, feature_vector, infoset_key
from tracer_env.prompts import Prompt, build_prompt
from tracer_env.registry import load_task
from tracer_env.rewards import ContinuationScheme, RewardScheme, checked_pay, make_rewards, team_return
from tracer_env.tasks.base import ScriptedTask, Task
from tracer_env.types import (
    SILENCE,
    Action,
    Control,
    DialogueState,
    JointAction,
    Question,
    Role,
    Rules,
    Seat,
    Turn,
    Utterance,
)

__all__ = ["Game"]

_ENDLESS = 2**53
"""Questions of an endless task are drawn below this index (exact in float64)."""

_RESET_OPTIONS = ("index",)

_MASKS = {mask: np.array(mask, dtype=np.int8) for mask in ((True, False), (False, True), (True, True))}
"""Control masks as arrays; copying one takes a fifth of the time of making it."""

_NO_TURN = Turn(-1, -1, Seat(Role.PROPOSER, 0), Control.SKIP, SILENCE)
"""Stands for the last turn of a seat that has had none."""


class Game:
    """A task with its rules, rewards and abstraction.

    Attributes:
        task: where the questions come from.
        rules: the fixed rules.
        rewards: the reward scheme.
        abstraction: name of the information-set abstraction.
        script: the task, when it brings every utterance itself (a recorded or a simulated team); else None.
    """

    def __init__(
        self,
        task: str | os.PathLike[str] | Task,
        *,
        split: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        rewards: str | RewardScheme = "tracer",
        abstraction: str = "paper",
        **rules: Any,
    ) -> None:
        """Check and store the settings; no file is read before the first question is drawn.

        Args:
            task: a task name, a path to a JSONL file, or a task object.
            split: ``"train"`` (default), ``"validation"`` or ``"test"``; a task object has its own.
            data_dir: folder with the task's data; None looks at ``TRACER_DATA_DIR``, then at the hub.
            rewards: name of a reward scheme, or an object.
            abstraction: name of an information-set abstraction.
            **rules: fields of ``Rules``; None stands for the default, or for what a recorded game fixes.

        Raises:
            ConfigError: if a setting is unknown, has a value that is not allowed, or contradicts the task's own.
        """
        unknown = set(rules) - set(Rules.__dataclass_fields__)
        if unknown:
            settings = [
                "task",
                "split",
                "data_dir",
                "rewards",
                "abstraction",
                "render_mode",
                *Rules.__dataclass_fields__,
            ]
            raise UnknownNameError("argument", sorted(unknown)[0], settings)
        if abstraction not in ABSTRACTIONS:
            raise UnknownNameError("abstraction", abstraction, ABSTRACTIONS)
        self.abstraction = abstraction
        given = {name: value for name, value in rules.items() if value is not None}
        check_rules(Rules(**given))
        self.task: Task = load_task(task, split=split, data_dir=data_dir)
        self.script = self.task if isinstance(self.task, ScriptedTask) else None
        self.rules = Rules(**given) if self.script is None else _fixed_rules(self.script, given)
        if abstraction == "ballot" and self.rules.decide != "ballot":
            raise ConfigError("abstraction='ballot' needs decide='ballot'.")
        scheme = make_rewards(rewards)
        self.rewards = scheme.bind(self) if isinstance(scheme, ContinuationScheme) else scheme

    # --- questions -------------------------------------------------------------------------------------------

    def draw_question(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> Question:
        """Draw a question uniformly, or take the one that ``options`` asks for.

        Args:
            rng: drawn from exactly once, whatever the options say, so that they do not shift later draws.
            options: ``{"index": i}`` takes question ``i``. Unknown keys are warned about (PettingZoo's own
                tests pass one, so they cannot be errors).

        Raises:
            ConfigError: if the index is not an integer in range, or the task has no questions.
        """
        size = self.task.num_questions()
        if size == 0:
            raise ConfigError(f"task {self.task.name!r} has no questions in split {self.task.split!r}.")
        index = int(rng.integers(_ENDLESS if size is None else size))
        options = options or {}
        for key in options:
            if key not in _RESET_OPTIONS:
                warnings.warn(f"reset option {key!r} is unknown and ignored; known: {_RESET_OPTIONS}.", stacklevel=3)
        if "index" in options:
            index = options["index"]
            if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
                raise ConfigError(f"reset option 'index' must be an integer of at least 0, not {index!r}.")
            if size is not None and index >= size:
                raise ConfigError(f"reset option 'index' is {index}, but the task has {size} questions.")
        return self.task.question(int(index))

    # --- playing -----------------------------------------------------------------------------------------------

    def start(self, question: Question) -> DialogueState:
        """Return the state before the first round."""
        return initial_state(question)

    def acting(self, state: DialogueState) -> tuple[Seat, ...]:
        """Return the seats that act now; empty when the game is over."""
        return acting_seats(self.rules, state)

    @property
    def scripted(self) -> bool:
        """True when the task brings every utterance itself: texts of actions are ignored, no model is needed."""
        return self.script is not None

    def utterances(self, state: DialogueState, seat: Seat) -> Sequence[Utterance]:
        """Return the candidates that a scripted task has for an acting seat; the first is what SPEAK plays.

        Raises:
            ConfigError: if the task is not scripted.
        """
        if self.script is None:
            raise ConfigError(f"task {self.task.name!r} brings no utterances; a generator has to write them.")
        return self.script.utterances(self.rules, state, seat)

    def advance(self, state: DialogueState, actions: JointAction) -> DialogueState:
        """Play one round; see ``dialogue.advance``. In a scripted game only the controls of the actions count."""
        if self.script is not None:
            actions = {seat: self._scripted_action(state, seat, action) for seat, action in actions.items()}
        return advance(self.rules, self.task, state, actions)

    def _scripted_action(self, state: DialogueState, seat: Seat, action: Action) -> Action:
        if action.control is Control.SKIP and control_mask(state, seat)[0]:
            return Action(Control.SKIP)
        return Action(action.control, self.utterances(state, seat)[0])

    def pay(self, before: DialogueState, after: DialogueState) -> dict[Seat, float]:
        """Return what each seat is paid for the round between two states.

        Raises:
            RewardError: if the scheme pays anything but finite numbers to seats of the game.
        """
        turns = after.turns[len(before.turns) :]
        pay = self.rewards.round_rewards(self.rules, before, turns, after)
        return checked_pay(self.rewards, self.rules, pay, before.round)

    def team_return(self, state: DialogueState) -> float:
        """Return U of a finished game."""
        return team_return(state, self.rewards.costs)

    # --- what a seat sees --------------------------------------------------------------------------------------

    def prompt(self, state: DialogueState, seat: Seat) -> Prompt:
        """Return what the seat reads: the dialogue; in a ballot the question alone, with what a reviewer judges."""
        if self.rules.decide == "ballot":
            judged = judged_proposal(self.rules, state) if seat.role is Role.REVIEWER else None
            turns = () if judged is None else (state.turns[judged.turn],)
            state = state._replace(turns=turns, standing=judged)
        return build_prompt(state, seat, self.task.kind)

    def infoset(self, state: DialogueState, seat: Seat) -> str:
        """Return the key of the seat's information set."""
        return infoset_key(self.rules, state, seat, self.abstraction)

    def mask(self, state: DialogueState, seat: Seat, acts: bool = True) -> tuple[bool, bool]:
        """Return which controls (SKIP, SPEAK) the seat may play; a seat that does not act may only SKIP."""
        return control_mask(state, seat) if acts else (True, False)

    def observe(self, state: DialogueState, seat: Seat, acts: bool) -> dict[str, Any]:
        """Return the seat's observation: ``prompt``, ``features`` and ``control_mask``."""
        return {
            "prompt": self.prompt(state, seat),
            "features": feature_vector(self.rules, state, seat),
            "control_mask": _MASKS[self.mask(state, seat, acts)].copy(),
        }

    def info(self, state: DialogueState, seat: Seat, acts: bool) -> dict[str, Any]:
        """Return the seat's info dict; ``correct`` is None until the game is over."""
        mine = _NO_TURN
        for turn in reversed(state.turns):
            if turn.seat is seat:
                mine = turn
                break
        verdict = mine.verdict
        return {
            "action_mask": {"control": _MASKS[self.mask(state, seat, acts)].copy(), "utterance": None},
            "infoset": self.infoset(state, seat),
            "tokens_spent": state.tokens_spent,
            "calls_spent": state.calls_spent,
            "answer": state.answer,
            "verdict": None if verdict is None else verdict.value,
            "invalid": verdict is None and mine.invalid,
            "control_corrected": mine.control_corrected,
            "clipped": mine.clipped,
            "question_id": state.question.question_id,
            "correct": state.correct if state.over else None,
        }

    # --- actions -------------------------------------------------------------------------------------------------

    def parse_action(self, agent: str, action: Any) -> Action:
        """Turn an action dict into an ``Action``.

        Raises:
            ActionError: if it is not a dict of ``control`` in {0, 1} and ``utterance`` (text).
        """
        try:
            control, utterance = action["control"], action.get("utterance", "")
        except (TypeError, KeyError, AttributeError, IndexError):
            raise ActionError(
                f"{agent} must act with {{'control': 0 (SKIP) or 1 (SPEAK), 'utterance': text}}, not {action!r:.200}."
            ) from None
        if len(action) > 1 + ("utterance" in action):
            extra = next(key for key in action if key not in ("control", "utterance"))
            raise UnknownNameError(f"action key of {agent}", extra, ("control", "utterance"))
        if isinstance(control, str):
            raise ActionError(
                f"control of {agent} must be tracer_env.Control.SKIP (0) or Control.SPEAK (1), not the string "
                f"{control!r}."
            )
        try:
            number = index(control)  # also NumPy's integers and arrays of one
        except TypeError:
            number = -1
        if number not in (0, 1):
            raise ActionError(f"control of {agent} must be 0 (SKIP) or 1 (SPEAK), not {control!r}.")
        if isinstance(utterance, Utterance):
            _check_facts(agent, utterance)
        elif isinstance(utterance, str):
            utterance = Utterance(utterance)
        else:
            raise ActionError(f"utterance of {agent} must be text, not {type(utterance).__name__}.")
        return Action(Control.SPEAK if number else Control.SKIP, utterance)


def _fixed_rules(script: ScriptedTask, given: Mapping[str, Any]) -> Rules:
    """Take the rules from a scripted task, and the rest from the arguments; they may repeat but not contradict."""
    for name, fixed in script.settings.items():
        if given.get(name, fixed) != fixed:
            raise ConfigError(
                f"task {script.name!r} was made with {name}={fixed!r} and cannot be played with {given[name]!r}; "
                f"leave {name} out."
            )
    rules = Rules(**{**given, **script.settings})
    check_rules(rules)
    return rules


_FACT_RANGES = {
    "tokens_in": (0, math.inf),
    "tokens_out": (0, math.inf),
    "mean_logprob": (-math.inf, 0),
    "min_logprob": (-math.inf, 0),
    "p_right": (0, 1),
}


def _check_facts(agent: str, said: Utterance) -> None:
    if (
        (said.tokens_in is None or said.tokens_in >= 0)
        and (said.tokens_out is None or said.tokens_out >= 0)
        and (said.mean_logprob is None or said.mean_logprob <= 0)
        and (said.min_logprob is None or said.min_logprob <= 0)
        and (said.p_right is None or 0 <= said.p_right <= 1)
    ):
        return
    for name, (low, high) in _FACT_RANGES.items():
        value = getattr(said, name)
        if value is not None and not low <= value <= high:
            raise ActionError(f"utterance of {agent}: {name} must be None or in [{low}, {high}], not {value!r}.")
