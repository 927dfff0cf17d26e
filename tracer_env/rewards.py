"""Reward schemes: what each seat is paid, as injected objects over (state, turns, next state).

The team return U = signed(final) - costs is common to all schemes; a scheme decides how it, or something more
local, reaches the seats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from tracer_env.dialogue import signed
from tracer_env.errors import ConfigError, RewardError, UnknownNameError
from tracer_env.types import DialogueState, Role, Rules, Seat, Turn

__all__ = [
    "REWARD_SCHEMES",
    "Costs",
    "OutcomeRewards",
    "RewardKind",
    "RewardScheme",
    "TracerRewards",
    "check_finite",
    "make_rewards",
    "team_return",
]


class RewardKind(StrEnum):
    """How a scheme can score the candidates of a group (method.md, section 3)."""

    LOCAL = "local"  # each candidate can be scored from its text alone
    CONTINUATION = "continuation"  # each candidate has to be played on
    TRAJECTORY = "trajectory"  # one reward per episode; not group-relative


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What speaking costs, in reward units.

    Attributes:
        per_call: for each utterance, at least 0.
        per_1k_tokens: for each thousand generated tokens, at least 0.
        scope: ``"team"`` charges every seat alike (the payoff stays common), ``"seat"`` the speaker only.
    """

    per_call: float = 0.0
    per_1k_tokens: float = 0.0
    scope: str = "team"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("per_call", "per_1k_tokens"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"cost {name} must be finite and at least 0, not {value!r}.")
        if self.scope not in ("team", "seat"):
            raise UnknownNameError("cost scope", self.scope, ("team", "seat"))

    def of_turn(self, turn: Turn) -> float:
        """Return what one turn costs."""
        return self.per_call * turn.spoke + self.per_1k_tokens * turn.tokens_out / 1000

    def of_episode(self, state: DialogueState) -> float:
        """Return what all turns so far cost."""
        return self.per_call * state.calls_spent + self.per_1k_tokens * state.tokens_spent / 1000


def team_return(state: DialogueState, costs: Costs) -> float:
    """Return U = signed(final) - costs of a finished game (method.md, section 3)."""
    return signed(state.correct) - costs.of_episode(state)


@runtime_checkable
class RewardScheme(Protocol):
    """Pays the seats. Pass any such object as ``rewards=``.

    Attributes:
        name: short name used in logs.
        kind: how candidates of a group can be scored.
        costs: what speaking costs.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def kind(self) -> RewardKind: ...  # noqa: D102 - see the class

    @property
    def costs(self) -> Costs: ...  # noqa: D102 - see the class

    def turn_reward(self, before: DialogueState, turn: Turn) -> float:
        """Return the local reward of a turn, without costs; only for ``kind == LOCAL``."""
        ...

    def round_rewards(
        self, rules: Rules, before: DialogueState, turns: Sequence[Turn], after: DialogueState
    ) -> dict[Seat, float]:
        """Return what every seat is paid for a round, costs included; missing seats are paid 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class TracerRewards:
    """The paper's role-specific rewards (method.md, section 3, row ``tracer``).

    A proposer that SPEAKs is paid signed(its new answer), one that SKIPs signed(standing answer). A reviewer that
    SPEAKs is paid +1 when its verdict agrees with the truth and -1 when not, one that SKIPs signed(standing).

    Attributes:
        costs: what speaking costs.
        unparsable: pay for an unparsable verdict, in [-1, 1]. Deviation: the public code pays 0, which makes a
            vague review better than a wrong one (flaw C15); here it is never better than a wrong one by default.
    """

    costs: Costs = Costs()
    unparsable: float = -1.0
    name: str = "tracer"
    kind: RewardKind = RewardKind.LOCAL

    def turn_reward(self, before: DialogueState, turn: Turn) -> float:
        """Return the local reward of a turn, without costs."""
        if not turn.spoke:
            return signed(before.correct)
        if turn.seat.role is Role.REVIEWER and turn.verdict is None:
            return self.unparsable
        return signed(bool(turn.correct))

    def round_rewards(
        self, rules: Rules, before: DialogueState, turns: Sequence[Turn], after: DialogueState
    ) -> dict[Seat, float]:
        """Pay each acting seat its local reward, then charge the costs."""
        pay = _charges(self.costs, rules, turns)
        for turn in turns:
            pay[turn.seat] += self.turn_reward(before, turn)
        return pay


@dataclass(frozen=True, kw_only=True)
class OutcomeRewards:
    """The team return U, paid to every agent at the end (method.md, section 3, row ``outcome``).

    With ``scope="seat"`` each seat is charged its own speaking only, so that the payoff is no longer common.
    Costs are charged when they arise, so that the sum over an episode is U.

    Attributes:
        costs: what speaking costs.
    """

    costs: Costs = Costs()
    name: str = "outcome"
    kind: RewardKind = RewardKind.TRAJECTORY

    def turn_reward(self, before: DialogueState, turn: Turn) -> float:
        """There is no local reward.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("scheme 'outcome' pays whole episodes; it cannot score the candidates of a group.")

    def round_rewards(
        self, rules: Rules, before: DialogueState, turns: Sequence[Turn], after: DialogueState
    ) -> dict[Seat, float]:
        """Charge the costs, and pay signed(final) to everybody at the end."""
        pay = _charges(self.costs, rules, turns)
        if after.over:
            for seat in pay:
                pay[seat] += signed(after.correct)
        return pay


def _charges(costs: Costs, rules: Rules, turns: Sequence[Turn]) -> dict[Seat, float]:
    if costs.scope == "team":
        total = sum(costs.of_turn(turn) for turn in turns)
        return dict.fromkeys(rules.seats, 0.0 - total)  # and not -0.0
    pay = dict.fromkeys(rules.seats, 0.0)
    for turn in turns:
        pay[turn.seat] -= costs.of_turn(turn)
    return pay


REWARD_SCHEMES: dict[str, Callable[[], RewardScheme]] = {"tracer": TracerRewards, "outcome": OutcomeRewards}
"""Reward schemes by name."""


def make_rewards(rewards: str | RewardScheme) -> RewardScheme:
    """Return the scheme of a name, or the object itself.

    Raises:
        UnknownNameError: if the name is not one of ``REWARD_SCHEMES``.
        ConfigError: if an object is not a ``RewardScheme``.
    """
    if isinstance(rewards, str):
        if rewards not in REWARD_SCHEMES:
            raise UnknownNameError("reward scheme", rewards, REWARD_SCHEMES)
        return REWARD_SCHEMES[rewards]()
    if isinstance(rewards, type):
        raise ConfigError(f"rewards must be an object, not the class: pass {rewards.__name__}().")
    if not isinstance(rewards, RewardScheme):
        raise ConfigError(
            f"rewards must be a name or an object with name, kind, costs, turn_reward and round_rewards, "
            f"not {type(rewards).__name__}."
        )
    return rewards


def check_finite(scheme: RewardScheme, pay: dict[Seat, float], round_index: int) -> None:
    """Check that every payment is a finite number.

    Raises:
        RewardError: naming scheme, agent and round.
    """
    for seat, value in pay.items():
        if not math.isfinite(value):
            raise RewardError(
                f"reward scheme {scheme.name!r} paid {value!r} to {seat.name} in round {round_index}; "
                f"rewards must be finite numbers."
            )
