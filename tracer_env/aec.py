"""The turn-by-turn face: a PettingZoo AEC environment over the pure rules."""

from __future__ import annotations

import os
from copy import copy
from typing import Any

from pettingzoo.utils import AECEnv, wrappers

from tracer_env.errors import ActionError
from tracer_env.face import Face, Snapshot
from tracer_env.tasks.base import Task
from tracer_env.types import Action, DialogueState, Seat

__all__ = ["env", "raw_env"]


def env(task: str | os.PathLike[str] | Task = "arithmetic", **settings: Any) -> AECEnv[str, Any, Any]:
    """Make the AEC environment with PettingZoo's order check around it. See ``raw_env`` for the arguments."""
    return _OrderChecked(raw_env(task, **settings))


class _OrderChecked(wrappers.OrderEnforcingWrapper[str, Any, Any]):
    """PettingZoo's order check, except that a step outside an episode raises: theirs logs a line after the end."""

    def step(self, action: Any) -> None:
        if self.unwrapped.agents:
            super().step(action)
        else:
            self.env.step(action)  # raises the ActionError that fits: before reset, or after the end

    def snapshot(self) -> Snapshot:
        """Return this moment; see ``Face.snapshot``."""
        moment: Snapshot = self.unwrapped.snapshot()
        return moment

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a moment; see ``Face.restore``."""
        self.unwrapped.restore(snapshot)
        self._has_reset = self._has_updated = True

    def fork(self) -> _OrderChecked:
        """Return another branch of the game, order check included; see ``Face.fork``."""
        branch = copy(self)
        branch.env = self.unwrapped.fork()
        return branch

    def __str__(self) -> str:
        return str(self.env)


class raw_env(Face, AECEnv[str, Any, Any]):
    """A team of proposers and reviewers answers a question over a few rounds.

    ## Description
    Proposers write solutions, reviewers judge them. In every turn a seat first chooses a control, SPEAK or SKIP, and
    only a SPEAK uses the text. What would be final if the game stopped now is the *standing answer*.

    ## Action Space
    ``Dict(control=Discrete(2), utterance=UtteranceSpace())``: 0 is SKIP, 1 is SPEAK. Pass a ``tracer_env.Utterance``
    to state token counts and log-probabilities; a plain ``str`` is counted by ``count_tokens``. A masked SKIP (a
    proposer's while no answer stands) is played as SPEAK of the given utterance and flagged ``control_corrected``.

    ## Observation Space
    ``Dict(prompt=UtteranceSpace(), features=Box(float32), control_mask=MultiBinary(2))``. ``prompt`` is what the seat
    reads; ``features`` are named in ``tracer_env.FEATURES``; a seat that does not act has the mask [1, 0].

    ## Starting State
    No answer stands. ``reset(seed=...)`` draws a question of the task's split uniformly; ``options={"index": i}``
    takes question ``i``.

    ## Reward
    By the scheme, less costs: ``tracer`` (role-specific and local), ``outcome`` (the team return at the end),
    ``potential`` (by how the standing answer gets better or worse) or ``difference`` (what a turn added).

    ## Episode End
    After ``rounds`` rounds (termination); optionally after ``stop_after_skips`` SKIPs in a row or a vote score of
    ``stop_at_votes`` (termination) or when ``token_budget`` generated tokens are spent (truncation). All agents end
    together; after that each is stepped once with None, and collects what it was paid since its last turn.

    ## Information
    ``action_mask``, ``infoset``, ``tokens_spent``, ``calls_spent``, ``answer`` (standing), and about the agent's own
    last turn ``verdict``, ``invalid``, ``control_corrected``, ``clipped``; also ``question_id``, and ``correct`` after
    the end.

    ## References
    TRACER (arXiv 2605.28699).

    ## Version History
    * v0: first version.
    """

    _kept = (
        "agents",
        "_acting",
        "_buffer",
        "_infos",
        "rewards",
        "_cumulative_rewards",
        "terminations",
        "truncations",
        "agent_selection",
    )
    _buffer: dict[Seat, Action]  # the actions of the round so far
    _infos: dict[str, dict[str, Any]]  # of the agents that somebody has looked at since the last round

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Start an episode.

        Args:
            seed: restarts the environment's randomness; None goes on with it.
            options: ``{"index": i}`` takes question ``i``.

        Raises:
            DataNotFoundError: if no source has the task's data.
        """
        self._draw(seed, options)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self._begin_round()
        if self.render_mode == "human":
            self.render()

    def _begin_round(self) -> None:
        state = self.dialogue
        self._buffer = {}
        self._acting = self.game.acting(state)
        self._infos = {}
        if self._acting:
            self.agent_selection = self._acting[0].name

    @property
    def infos(self) -> dict[str, dict[str, Any]]:
        """The info dicts of all live agents, each made when somebody looks."""
        for agent in self.agents:
            self._info(agent)
        return self._infos

    def _info(self, agent: str) -> dict[str, Any]:
        info = self._infos.get(agent)
        if info is None:
            seat = self._seats[agent]
            info = self._infos[agent] = self.game.info(self.dialogue, seat, self._acts(seat))
        return info

    def last(self, observe: bool = True) -> tuple[dict[str, Any] | None, float, bool, bool, dict[str, Any]]:
        """Return observation, cumulative reward, termination, truncation and info of the selected agent.

        As PettingZoo's own, but nothing is made for the other agents.

        Raises:
            ActionError: before the first ``reset``.
        """
        self.dialogue  # noqa: B018 - raises before the first reset, when no agent is selected either
        agent = self.agent_selection
        return (
            self.observe(agent) if observe else None,
            self._cumulative_rewards[agent],
            self.terminations[agent],
            self.truncations[agent],
            self._info(agent),
        )

    def _acts(self, seat: Seat) -> bool:
        return seat in self._acting and seat not in self._buffer

    def observe(self, agent: str) -> dict[str, Any]:
        """Return what the agent sees now; nothing of a simultaneous round in progress."""
        seat = self._seats[self._known(agent)]
        return self.game.observe(self.dialogue, seat, self._acts(seat))

    def step(self, action: Any) -> None:
        """Play the selected agent's action, or None for an agent whose episode has ended.

        Raises:
            ActionError: before ``reset``, after the end, or when the action is malformed.
        """
        state = self.dialogue
        if not self.agents:
            raise ActionError("the episode is over; call reset() before acting again.")
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            if action is not None:
                raise ActionError(f"the episode is over; {agent} can only be stepped with None.")
            self._leave(agent)
            return
        seat = self._seats[agent]
        self._buffer[seat] = self.game.parse_action(agent, action)
        self._cumulative_rewards[agent] = 0.0
        if len(self._buffer) < len(self._acting):
            self._clear_rewards()
            self.agent_selection = self._acting[len(self._buffer)].name
            self._infos.pop(agent, None)  # only the mask of the seat that has just acted changes: the round is hidden
            return
        self._finish_round(state)
        if self.render_mode == "human":
            self.render()

    def _leave(self, agent: str) -> None:
        """Take an agent out whose episode has ended. All end together, so that the next one is simply the next."""
        for of_agents in (self.terminations, self.truncations, self.rewards, self._cumulative_rewards):
            del of_agents[agent]
        self._infos.pop(agent, None)
        self.agents.remove(agent)
        self._clear_rewards()
        if self.agents:
            self.agent_selection = self.agents[0]

    def _finish_round(self, state: DialogueState) -> None:
        after = self.game.advance(state, self._buffer)
        pay = self.game.pay(state, after)  # may raise: nothing has changed yet
        self._state = after
        for seat, value in pay.items():
            self.rewards[seat.name] = value
            self._cumulative_rewards[seat.name] += value
        if after.over:
            self.terminations = dict.fromkeys(self.agents, not after.truncated)
            self.truncations = dict.fromkeys(self.agents, after.truncated)
        self._begin_round()
        if after.over:
            self.agent_selection = self.agents[0]
