"""The belief-state optimum of a simulated team: what a coordinator who sees everything public could reach.

What is hidden is which of the answers seen so far is right, and which is the question's common wrong one (each may be
none of them). Weights over these pairs, with the standing answer, the last verdict on it (the judge may repeat itself)
and the round, are a sufficient statistic, so the optimum is a recursion over them. It is an upper bound on the best
policy of every abstraction, and is written apart from ``search.public_optimum``, which finds the same number on the
tree: each checks the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracer_env.dialogue import round_role, signed
from tracer_env.errors import ConfigError, check_type
from tracer_env.rewards import Costs
from tracer_env.tasks.simulated import SimulatedTeam
from tracer_env.types import Proposal, Role, Rules, Seat, Utterance, Verdict

__all__ = ["belief_optimum"]

_Hidden = tuple[int | None, int | None]
"""Number of the right answer and of the common wrong one among those seen; None when it was not seen yet."""


@dataclass(frozen=True, slots=True)
class _Belief:
    """What the coordinator knows; the weights add up to the probability of getting here."""

    weights: dict[_Hidden, float]
    seen: int = 0
    standing: int | None = None
    verdict: Verdict | None = None


def belief_optimum(team: SimulatedTeam, rules: Rules, costs: Costs | None = None) -> float:
    """Return the best E[U] of a simulated team under a coordinator who remembers everything public.

    Args:
        team: the team.
        rules: the game's rules: one seat a round, ``decide="last"``, ``on_invalid="keep"``, no stopping rules. The
            cost grows exponentially with the rounds: seconds at 7.
        costs: what speaking costs.

    Raises:
        ConfigError: if the rules are others.
    """
    check_type(team, SimulatedTeam, "take Game('simulated:default').task.team, or make one.")
    check_type(rules, Rules, "make tracer_env.Rules(rounds=...), or take a game's .rules.")
    one_seat = rules.schedule in ("round_robin", "reference") or (rules.proposers, rules.reviewers) in ((1, 0), (1, 1))
    plain = (
        isinstance(rules.schedule, str)
        and one_seat
        and (rules.decide, rules.on_invalid) == ("last", "keep")
        and rules.stop_after_skips is rules.stop_at_votes is rules.token_budget is None
    )
    if not plain:
        raise ConfigError("the belief-state optimum needs one seat a round, decide='last' and no stopping rules.")
    return _value(team, rules, costs or Costs(), 0, _Belief({(None, None): 1.0}))


def _value(team: SimulatedTeam, rules: Rules, costs: Costs, round_index: int, belief: _Belief) -> float:
    if round_index == rules.rounds:
        return sum(w * signed(h[0] == belief.standing is not None) for h, w in belief.weights.items())
    role = round_role(rules, round_index)
    outcomes = _proposals(team, belief) if role is Role.PROPOSER else _reviews(team, belief)
    speak = 0.0
    for tokens, after in outcomes:
        cost = costs.per_call + costs.per_1k_tokens * tokens / 1000
        speak += _value(team, rules, costs, round_index + 1, after) - cost * sum(after.weights.values())
    if role is Role.PROPOSER and belief.standing is None:
        return speak  # SKIP is masked
    return max(speak, _value(team, rules, costs, round_index + 1, belief))


def _proposals(team: SimulatedTeam, belief: _Belief) -> Iterator[tuple[int, _Belief]]:
    """Yield what a new solution can show: nothing, an answer that was seen, or a new one."""
    valid = 1.0 - team.invalid
    if team.invalid > 0.0:
        weights = {h: w * team.invalid for h, w in belief.weights.items()}
        yield team.proposal_tokens, _Belief(weights, belief.seen, belief.standing, belief.verdict)
    for answer in range(belief.seen + 1):
        after: dict[_Hidden, float] = {}
        for (right, common), weight in belief.weights.items():
            p_right = team.proposal(_standing(right, belief), belief.verdict)
            is_right, is_common = p_right, (1.0 - p_right) * team.common_wrong
            ways: list[tuple[_Hidden, float]]
            if answer < belief.seen:
                ways = [((right, common), is_right * (right == answer) + is_common * (common == answer))]
            else:
                ways = [((right, common), (1.0 - p_right) * (1.0 - team.common_wrong))]
                ways += [((answer, common), is_right)] if right is None else []
                ways += [((right, answer), is_common)] if common is None else []
            for hidden, p in ways:
                if p > 0.0:
                    after[hidden] = after.get(hidden, 0.0) + weight * valid * p
        if after:
            yield team.proposal_tokens, _Belief(after, max(belief.seen, answer + 1), answer)


def _reviews(team: SimulatedTeam, belief: _Belief) -> Iterator[tuple[int, _Belief]]:
    for said in (Verdict.RIGHT, Verdict.WRONG, None):
        after = {}
        for hidden, weight in belief.weights.items():
            is_right = hidden[0] == belief.standing is not None
            p = team.verdict_rates(is_right, belief.verdict)[said]
            if p > 0.0:
                after[hidden] = weight * p
        if after:
            tokens = team.right_tokens if said is Verdict.RIGHT else team.wrong_tokens
            yield tokens, _Belief(after, belief.seen, belief.standing, said or belief.verdict)


def _standing(right: int | None, belief: _Belief) -> Proposal | None:
    """Return what stands, as the team's probabilities ask for it: only whether it is right matters."""
    if belief.standing is None:
        return None
    return Proposal("", belief.standing == right, 0, Seat(Role.PROPOSER, 0), Utterance())
