"""The dict-in, dict-out face: a PettingZoo parallel environment over the same rules."""

from __future__ import annotations

from typing import Any

from pettingzoo import ParallelEnv

from tracer_env.errors import ActionError
from tracer_env.face import Face
from tracer_env.types import DialogueState

__all__ = ["parallel_env"]


class parallel_env(Face, ParallelEnv[str, Any, Any]):
    """The game of ``raw_env`` with one step per round. See there for everything but the call convention.

    All agents live until the end. Every step takes a dict of actions; those of seats that do not act are ignored and
    may be left out, the action of an acting seat must be there. A step returns what each agent was paid in that round.
    """

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Start an episode; arguments and errors as in ``raw_env.reset``.

        Returns:
            Observations and infos of all agents.
        """
        state = self._draw(seed, options)
        if self.render_mode == "human":
            self.render()
        return self._views(state)

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
            self._known(agent)
        missing = [seat.name for seat in self._acting if seat.name not in actions]
        if missing:
            raise ActionError(f"round {state.round} needs an action of {missing}; got {sorted(actions)}.")
        parsed = {seat: self.game.parse_action(seat.name, actions[seat.name]) for seat in self._acting}
        after = self.game.advance(state, parsed)
        pay = self.game.pay(state, after)  # may raise: nothing has changed yet
        self._state = after
        self._acting = self.game.acting(after)
        observations, infos = self._views(after)
        rewards = {seat.name: value for seat, value in pay.items()}
        terminations = dict.fromkeys(self.possible_agents, after.over and not after.truncated)
        truncations = dict.fromkeys(self.possible_agents, after.truncated)
        if after.over:
            self.agents = []
        if self.render_mode == "human":
            self.render()
        return observations, rewards, terminations, truncations, infos
