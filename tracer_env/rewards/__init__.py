"""Reward schemes: what each seat is paid, as injected objects over (state, turns, next state).

The team return U = signed(final) - costs is common to all schemes; a scheme decides how it, or something more
local, reaches the seats.
"""

from __future__ import annotations

from collections.abc import Callable

from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.rewards.base import Costs, RewardKind, RewardScheme, checked_pay, team_return
from tracer_env.rewards.counterfactual import ContinuationScheme, DifferenceRewards, PotentialRewards
from tracer_env.rewards.direct import OutcomeRewards, TracerRewards

__all__ = [
    "REWARD_SCHEMES",
    "ContinuationScheme",
    "Costs",
    "DifferenceRewards",
    "OutcomeRewards",
    "PotentialRewards",
    "RewardKind",
    "RewardScheme",
    "TracerRewards",
    "checked_pay",
    "make_rewards",
    "team_return",
]

REWARD_SCHEMES: dict[str, Callable[[], RewardScheme]] = {
    "tracer": TracerRewards,
    "outcome": OutcomeRewards,
    "potential": PotentialRewards,
    "difference": DifferenceRewards,
}
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
    if not isinstance(rewards.kind, str) or rewards.kind not in set(RewardKind):
        raise UnknownNameError("kind of reward scheme", rewards.kind, RewardKind)
    if not isinstance(rewards.costs, Costs):
        raise ConfigError(f"costs of reward scheme {rewards.name!r} must be tracer_env.Costs(...).")
    return rewards
