"""The dict-in, dict-out face: a PettingZoo parallel environment over the same rules."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from tracer_env.aec import raw_env
from tracer_env.errors import ActionError, UnknownNameError
from tracer_env.rendering import RENDER_MODES, render, show
from tracer_env.tasks.base import Task
from tracer_env.types import DialogueState, Seat

__all__ = ["parallel_env"]


class parallel_env(ParallelEnv[str, Any, Any]):
    """The game of ``raw_env`` with one step per round. See there for everything but the call convention.

    All agents live until the end. Every step takes a dict of actions; those of seats that do not act are ignored and
    may be left out, the action of an acting seat must be there. A step returns what each agent was paid in that round.
    """

    metadata = {"render_modes": RENDER_MODES, "name": "tracer_dialogue_v0", "is_parallelizable": True}  # noqa: RUF012

    def __init__(self, task: str | os.PathLike[str] | Task = "arithmetic", **settings: Any) -> None:
        """Make the environment.

        Args:
            task: as in ``raw_env``.
            **settings: as in ``raw_env``.

        Raises:
            ConfigError: as in ``raw_env``.
        """
        inner = raw_env(task, **settings)  # one place checks the settings and makes the spaces
        self.render_mode = inner.render_mode
        self.game = inner.game
        self.possible_agents = list(inner.possible_agents)
        self.agents: list[str] = []
        self.observation_spaces = inner.observation_spaces
        self.action_spaces = inner.action_spaces
        self._seats = {seat.name: seat for seat in self.game.rules.seats}
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
        if agent not in self._seats:
            raise UnknownNameError("agent", agent, self._seats)
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return the agent's action space, the same object each time."""
        if agent not in self._seats:
            raise UnknownNameError("agent", agent, self._seats)
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Start an episode; arguments and errors as in ``raw_env.reset``.

        Returns:
            Observations and infos of all agents.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._state = self.game.start(self.game.draw_question(self._rng, options))
        self.agents = list(self.possible_agents)
        self._acting = self.game.acting(self._state)
        if self.render_mode == "human":
            self.render()
        return self._views(self._state)

    def _views(self, state: DialogueState) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        observations, infos = {}, {}
        for name in self.possible_agents:
            seat = self._seats[name]
            acts = seat in self._acting
            observations[name] = self.game.observe(state, seat, acts)
            infos[name] = self.game.info(state, seat, acts)
        return observations, infos

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Play one round.

        Args:
            actions: by agent; those of agents that do not act now are ignored.

        Returns:
            Observations, rewards, terminations, truncations and infos of all agents.

        Raises:
            ActionError: before ``reset``, after the end, or when an acting seat's action is missing or malformed.
            UnknownNameError: if a key is not an agent.
        """
        state = self.dialogue
        if not self.agents:
            raise ActionError("the episode is over; call reset() before acting again.")
        for agent in actions:
            if agent not in self._seats:
                raise UnknownNameError("agent", agent, self._seats)
        missing = [seat.name for seat in self._acting if seat.name not in actions]
        if missing:
            raise ActionError(f"round {state.round} needs an action of {missing}; got {sorted(actions)}.")
        parsed = {seat: self.game.parse_action(seat.name, actions[seat.name]) for seat in self._acting}
        self._state = after = self.game.advance(state, parsed)
        self._acting = self.game.acting(after)
        observations, infos = self._views(after)
        rewards = {seat.name: value for seat, value in self.game.pay(state, after).items()}
        terminations = dict.fromkeys(self.possible_agents, after.over and not after.truncated)
        truncations = dict.fromkeys(self.possible_agents, after.truncated)
        if after.over:
            self.agents = []
        if self.render_mode == "human":
            self.render()
        return observations, rewards, terminations, truncations, infos

    def render(self) -> str | None:
        """Return the transcript as text (``"ansi"``), or print the newest turns (``"human"``)."""
        if self.render_mode == "human":
            show(self.dialogue)
            return None
        return render(self.dialogue)

    def close(self) -> None:
        """There is nothing to release."""
