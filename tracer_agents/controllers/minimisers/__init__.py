"""Regret minimisers on {SKIP, SPEAK}, one file each: equation, source, which iterate converges, and its bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tracer_agents.controllers.minimisers.base import Columns, PromisesDiscounted, RegretMinimiser
from tracer_agents.controllers.minimisers.discounted import DiscountedRegretMatching
from tracer_agents.controllers.minimisers.geometric import GeometricRegretMatching
from tracer_agents.controllers.minimisers.hedge import Hedge
from tracer_agents.controllers.minimisers.predictive import PredictiveRegretMatchingPlus
from tracer_agents.controllers.minimisers.regret_matching import RegretMatching, regret_matching_policy
from tracer_agents.controllers.minimisers.regret_matching_plus import RegretMatchingPlus
from tracer_agents.controllers.minimisers.restarted import RestartedRegretMatching
from tracer_agents.controllers.minimisers.windowed import WindowedRegretMatching
from tracer_env.errors import ConfigError, UnknownNameError

__all__ = [
    "FORGETTING",
    "MINIMISERS",
    "NO_REGRET",
    "Columns",
    "DiscountedRegretMatching",
    "GeometricRegretMatching",
    "Hedge",
    "PredictiveRegretMatchingPlus",
    "PromisesDiscounted",
    "RegretMatching",
    "RegretMatchingPlus",
    "RegretMinimiser",
    "RestartedRegretMatching",
    "WindowedRegretMatching",
    "make_minimiser",
    "regret_matching_policy",
]

NO_REGRET: Mapping[str, Callable[[], RegretMinimiser]] = {
    "regret_matching": RegretMatching,
    "regret_matching_plus": RegretMatchingPlus,
    "discounted": DiscountedRegretMatching,
    "predictive": PredictiveRegretMatchingPlus,
    "hedge": Hedge,
}
"""Minimisers whose average regret vanishes, by name."""

FORGETTING: Mapping[str, Callable[[], RegretMinimiser]] = {
    "windowed": WindowedRegretMatching,
    "geometric": GeometricRegretMatching,
    "restarted": RestartedRegretMatching,
}
"""Minimisers that forget, for values that drift, by name."""

MINIMISERS: Mapping[str, Callable[[], RegretMinimiser]] = {**NO_REGRET, **FORGETTING}
"""All minimisers by name."""


def make_minimiser(minimiser: str | RegretMinimiser) -> RegretMinimiser:
    """Return the minimiser of a name, or the object itself.

    Raises:
        UnknownNameError: if the name is not one of ``MINIMISERS``.
        ConfigError: if an object is not a ``RegretMinimiser``.
    """
    if isinstance(minimiser, str):
        if minimiser not in MINIMISERS:
            raise UnknownNameError("regret minimiser", minimiser, MINIMISERS)
        return MINIMISERS[minimiser]()
    if isinstance(minimiser, type) or not isinstance(minimiser, RegretMinimiser):
        raise ConfigError(
            f"a regret minimiser is a name or an object with strategy, update and bound, not {minimiser!r}."
        )
    return minimiser
