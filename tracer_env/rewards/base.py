"""What a reward scheme is, what speaking costs, and the team return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from tracer_env.dialogue import signed
from tracer_env.errors import ConfigError, RewardError, UnknownNameError
from tracer_env.types import DialogueState, Rules, Seat, Turn

__all__ = ["Costs", "RewardKind", "RewardScheme", "charges", "checked_pay", "team_return"]


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


def charges(costs: Costs, rules: Rules, turns: Sequence[Turn]) -> dict[Seat, float]:
    """Return what every seat is charged for a round, as negative pay."""
    if not (costs.per_call or costs.per_1k_tokens):
        return dict.fromkeys(rules.seats, 0.0)
    if costs.scope == "team":
        total = sum(costs.of_turn(turn) for turn in turns)
        return dict.fromkeys(rules.seats, 0.0 - total)  # and not -0.0
    pay = dict.fromkeys(rules.seats, 0.0)
    for turn in turns:
        pay[turn.seat] -= costs.of_turn(turn)
    return pay


def checked_pay(scheme: RewardScheme, rules: Rules, pay: Mapping[Seat, float], round_index: int) -> dict[Seat, float]:
    """Return what a scheme pays for a round, one finite number for every seat; seats left out are paid 0.

    Raises:
        RewardError: if it is anything else, naming scheme, round and seat.
    """
    seats = rules.seats
    try:
        full = dict(pay) if all(map(pay.__contains__, seats)) else {seat: pay.get(seat, 0.0) for seat in seats}
        fine = len(full) == len(seats) and all(map(math.isfinite, full.values())) and pay.keys() <= full.keys()
    except (AttributeError, TypeError):
        fine = False
    if not fine:
        raise RewardError(
            f"reward scheme {scheme.name!r} paid {_first_wrong(rules, pay)} in round {round_index}; round_rewards must "
            "return a dict of finite numbers by Seat."
        )
    return full


def _first_wrong(rules: Rules, pay: object) -> str:
    if not isinstance(pay, Mapping):
        return repr(pay)
    for seat, value in pay.items():
        if not isinstance(seat, Seat) or seat not in rules.seats:
            return f"{value!r} to {seat!r}"
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{value!r} to {seat.name}"
    return repr(pay)
