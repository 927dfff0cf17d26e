"""What both PettingZoo faces share: settings, spaces, the current state, rendering."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from gymnasium import spaces

from tracer_env.errors import ActionError, ConfigError, UnknownNameError, check_type
from tracer_env.game import Game
from tracer_env.rendering import RENDER_MODES, render, render_ansi, show
from tracer_env.rewards import RewardScheme
from tracer_env.spaces import action_space, observation_space
from tracer_env.tasks.base import Task
from tracer_env.types import DialogueState, Schedule, Seat

__all__ = ["Face", "Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of a running environment, to go back to with ``restore``. Holds references only: O(1) in the transcript.

    Attributes:
        dialogue: the state of the game.
        kept: what else the environment holds, its random state included.
    """

    dialogue: DialogueState
    kept: Mapping[str, Any]
    game: Game


class Face:
    """A configured game with a current state. ``raw_env`` and ``parallel_env`` add a way of stepping it.

    Attributes:
        game: task, rules, rewards and abstraction.
        render_mode: ``"ansi"``, ``"human"`` or None.
        possible_agents: names of all seats, proposers first.
        agents: names of the live ones.
    """

    # PettingZoo's own converter wants every agent to act in every cycle; parallel_env is the parallel face.
    metadata = {"render_modes": RENDER_MODES, "name": "tracer_dialogue_v0", "is_parallelizable": False}  # noqa: RUF012

    def __init__(
        self,
        task: str | os.PathLike[str] | Task = "arithmetic",
        *,
        split: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        proposers: int | None = None,
        reviewers: int | None = None,
        rounds: int | None = None,
        schedule: str | Schedule | None = None,
        rewards: str | RewardScheme = "tracer",
        decide: str | None = None,
        on_invalid: str | None = None,
        abstraction: str = "paper",
        count_tokens: Callable[[str], int] | None = None,
        max_utterance_chars: int = 32_768,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Check and store the settings; no data is read before the first ``reset``.

        Args:
            task: a name (``gsm8k``, ``math500``, ``gpqa_diamond``, ``arithmetic``, ``recorded:<name or path>``,
                ``simulated:<name>``), a path to a JSONL file, or a task.
            split: ``"train"`` (default), ``"validation"`` or ``"test"``; a task object has its own.
            data_dir: folder with the data; None looks at ``TRACER_DATA_DIR``, then at the Hugging Face hub.
            proposers: number of proposers, at least 1. This and the next three, ``decide`` and ``on_invalid`` have
                the defaults of ``Rules``, or are what a recorded or simulated game fixes.
            reviewers: number of reviewers, at least 0.
            rounds: number of rounds, at least 1.
            schedule: ``"round_robin"``, ``"simultaneous"``, ``"reference"`` or a callable (rules, state) -> seats.
            rewards: ``"tracer"``, ``"outcome"``, ``"potential"``, ``"difference"`` or a ``RewardScheme``.
            decide: ``"last"``: the last proposed answer stands; ``"ballot"``: the leader of a weighted ballot.
            on_invalid: ``"keep"``: an unparsable proposal does not replace a valid answer; or ``"replace"``.
            abstraction: ``"paper"``, ``"round"``, ``"history"`` or (in a ballot) ``"ballot"``: decides
                ``infos[...]["infoset"]``.
            count_tokens: counts the tokens of plain strings; default: words and punctuation marks.
            max_utterance_chars: longer texts keep their first and last half.
            render_mode: ``"ansi"``, ``"human"`` or None.
            **options: ``stop_after_skips``, ``stop_at_votes``, ``token_budget`` (all None by default).

        Raises:
            ConfigError: if a setting is unknown (the nearest is named) or has a value that is not allowed.
        """
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise UnknownNameError("render_mode", render_mode, RENDER_MODES)
        self.render_mode = render_mode
        self.game = Game(
            task,
            split=split,
            data_dir=data_dir,
            rewards=rewards,
            abstraction=abstraction,
            proposers=proposers,
            reviewers=reviewers,
            rounds=rounds,
            schedule=schedule,
            decide=decide,
            on_invalid=on_invalid,
            count_tokens=count_tokens,
            max_utterance_chars=max_utterance_chars,
            **options,
        )
        self._seats = {seat.name: seat for seat in self.game.rules.seats}
        self.possible_agents = list(self._seats)
        self.agents: list[str] = []
        self.observation_spaces = {agent: observation_space() for agent in self._seats}
        self.action_spaces = {agent: action_space() for agent in self._seats}
        self._rng = np.random.default_rng()
        self._state: DialogueState | None = None
        self._acting: tuple[Seat, ...] = ()

    @property
    def dialogue(self) -> DialogueState:
        """The current state of the game (immutable).

        Raises:
            ActionError: before the first ``reset``.
        """
        if self._state is None:
            raise ActionError("there is no episode yet; call reset() first.")
        return self._state

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Return the agent's observation space, the same object each time."""
        return self.observation_spaces[self._known(agent)]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return the agent's action space, the same object each time."""
        return self.action_spaces[self._known(agent)]

    def _known(self, agent: str) -> str:
        if agent not in self._seats:
            raise UnknownNameError("agent", agent, self._seats)
        return agent

    def _draw(self, seed: int | None, options: dict[str, Any] | None) -> DialogueState:
        """Start an episode of the game: reseed if asked to, and draw a question."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._state = self.game.start(self.game.draw_question(self._rng, options))
        self.agents = list(self.possible_agents)
        self._acting = self.game.acting(self._state)
        return self._state

    # --- branching ------------------------------------------------------------------------------------------------

    _kept: tuple[str, ...] = ("agents", "_acting")
    """Attributes that change as the game goes on, beside the state and the random generator."""

    def snapshot(self) -> Snapshot:
        """Return this moment; ``restore`` goes back to it as often as wanted.

        Raises:
            ActionError: before the first ``reset``.
        """
        dialogue = self.dialogue
        kept = {name: copy(getattr(self, name)) for name in self._kept}
        return Snapshot(dialogue, {**kept, "_rng": deepcopy(self._rng)}, self.game)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a moment of this environment or of one that was forked from or into it.

        Raises:
            ConfigError: if the moment is of another game, or of the other face.
        """
        check_type(snapshot, Snapshot, "take what env.snapshot() returns.")
        if snapshot.game is not self.game or set(snapshot.kept) != {*self._kept, "_rng"}:
            raise ConfigError("a snapshot can be restored only in the environment that took it, or a fork of it.")
        self._state = snapshot.dialogue
        for name in self._kept:
            setattr(self, name, copy(snapshot.kept[name]))
        self._rng = deepcopy(snapshot.kept["_rng"])

    def fork(self) -> Self:
        """Return a second environment that goes on from this moment on its own: another branch of the game.

        Task, rules and spaces are shared, the transcript so far too; both draw the same questions from here on.

        Raises:
            ActionError: before the first ``reset``.
        """
        branch = copy(self)
        branch.restore(self.snapshot())
        return branch

    def render(self) -> str | None:
        """Return the transcript, plain (None) or in colours (``"ansi"``), or print the newest round (``"human"``)."""
        if self.render_mode == "human":
            show(self.dialogue)
            return None
        return render(self.dialogue) if self.render_mode is None else render_ansi(self.dialogue)

    def close(self) -> None:
        """There is nothing to release."""
