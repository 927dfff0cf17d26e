"""Schemes that pay for what has happened: the paper's role-specific rewards, and the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer_env.dialogue import signed
from tracer_env.errors import ConfigError
from tracer_env.rewards.base import Costs, RewardKind, charges
from tracer_env.types import DialogueState, Role, Rules, Seat, Turn

__all__ = ["OutcomeRewards", "TracerRewards"]


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
        pay = charges(self.costs, rules, turns)
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
        pay = charges(self.costs, rules, turns)
        if after.over:
            for seat in pay:
                pay[seat] += signed(after.correct)
        return pay
