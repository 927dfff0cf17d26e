"""Independent tabular Q-learning on the team return: only what was played teaches.

For every visit of information set I at which control a was played and the episode returned U::

    Q(I, a) += alpha (U - Q(I, a)),    alpha = w / (weight of all visits of (I, a) so far), or a constant

Targets are Monte-Carlo returns of the whole episode: no bootstrapping, no discount. Play is epsilon-greedy, the greedy
control with 1 - epsilon + epsilon/2 and the other with epsilon/2; controls of equal value are equally likely. Epsilon
decays by a factor with each update, down to a floor.

Source: Watkins & Dayan, "Q-learning" (1992); every seat on its own: Tan, "Multi-Agent Reinforcement Learning:
Independent vs. Cooperative Agents" (1993).
Promises: with a fixed epsilon > 0, alpha = 1/visits and the other seats frozen, Q(I, a) converges to the expected
return of a in I at the visits made. The other seats do learn, and an information set of imperfect recall mixes
histories, so nothing is promised about the team. It has no regret bound. Deploy it greedily (``GreedyController``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.batch import played, weights_of
from tracer_agents.controllers.states import State, check_state
from tracer_agents.errors import CheckpointError
from tracer_agents.interfaces import ControlValues
from tracer_env.errors import ConfigError

__all__ = ["QLearningController", "QLearningSettings"]


@dataclass(frozen=True, kw_only=True)
class QLearningSettings:
    """See the module.

    Attributes:
        learning_rate: a constant alpha in (0, 1]; None for 1/visits.
        epsilon: exploration before the first update, in [0, 1].
        epsilon_decay: its factor per update, in (0, 1].
        min_epsilon: its floor, in [0, ``epsilon``].
        initial: value of a control that was never played, in units of the return.
    """

    learning_rate: float | None = None
    epsilon: float = 1.0
    epsilon_decay: float = 0.98
    min_epsilon: float = 0.05
    initial: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.learning_rate is not None and not 0.0 < self.learning_rate <= 1.0:
            raise ConfigError(f"learning_rate must be None or in (0, 1], not {self.learning_rate!r}.")
        if not 0.0 <= self.min_epsilon <= self.epsilon <= 1.0:
            raise ConfigError(
                f"0 <= min_epsilon <= epsilon <= 1 is needed, not {self.min_epsilon!r} and {self.epsilon!r}."
            )
        if not 0.0 < self.epsilon_decay <= 1.0:
            raise ConfigError(f"epsilon_decay must be in (0, 1], not {self.epsilon_decay!r}.")
        if not math.isfinite(self.initial):
            raise ConfigError(f"initial must be finite, not {self.initial!r}.")


class QLearningController:
    """See the module. It has no randomness of its own: who plays draws the control.

    Attributes:
        settings: the settings.
        updates: batches learned from.
    """

    def __init__(self, settings: QLearningSettings | None = None) -> None:
        """Start with an empty table."""
        self.settings = settings or QLearningSettings()
        self.updates = 0
        self._q: dict[str, list[float]] = {}
        self._visits: dict[str, list[float]] = {}

    @property
    def infosets(self) -> tuple[str, ...]:
        """Keys of all information sets seen, in order of appearance."""
        return tuple(self._q)

    @property
    def epsilon(self) -> float:
        """The exploration of the next batch."""
        return max(self.settings.epsilon * self.settings.epsilon_decay**self.updates, self.settings.min_epsilon)

    def q_values(self, infoset: str) -> NDArray[np.float64]:
        """Return what SKIP and SPEAK are believed to return, shape (2,)."""
        return np.array(self._q.get(infoset, [self.settings.initial] * 2), dtype=np.float64)

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the epsilon-greedy probability of SPEAK; 1 when SKIP is masked."""
        if not mask[0]:
            return 1.0
        skip, speak = self._q.get(infoset, (0.0, 0.0))
        greedy = 0.5 if skip == speak else float(speak > skip)
        return (1.0 - self.epsilon) * greedy + self.epsilon / 2.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn from the controls that were played, in order.

        Args:
            values: decisions with ``control`` and ``returned``.

        Raises:
            ConfigError: if a decision was not played, or a number is not finite.
        """
        controls, returns = played(values)
        weights = weights_of(values)
        rows = zip(values, controls.tolist(), returns.tolist(), weights.tolist(), strict=True)
        for value, control, returned, weight in rows:
            q = self._q.setdefault(value.infoset, [self.settings.initial] * 2)
            visits = self._visits.setdefault(value.infoset, [0.0, 0.0])
            visits[control] += weight
            rate = weight / visits[control]
            if self.settings.learning_rate is not None:  # w visits of one kind at once
                rate = 1.0 - (1.0 - self.settings.learning_rate) ** weight
            q[control] += rate * (returned - q[control])
        self.updates += 1

    def state(self) -> State:
        """Return all that was learned, as arrays: ``load_state`` goes on from it."""
        return {
            "updates": np.array(self.updates, dtype=np.int64),
            "infosets": np.array(list(self._q), dtype=np.str_),
            "q": np.array(list(self._q.values()), dtype=np.float64).reshape(-1, 2),
            "visits": np.array(list(self._visits.values()), dtype=np.float64).reshape(-1, 2),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` of an object with the same settings has returned.

        Raises:
            CheckpointError: if it does not fit; then nothing has changed.
        """
        check_state(state, self.state(), grows=("infosets", "q", "visits"))
        infosets = state["infosets"].tolist()
        if not len(set(infosets)) == len(infosets) == len(state["q"]) == len(state["visits"]):
            raise CheckpointError("every information set needs one row of values and one of visits.")
        if state["updates"] < 0 or (state["visits"] < 0.0).any():
            raise CheckpointError("numbers of updates and visits cannot be negative.")
        self.updates = int(state["updates"])
        self._q = dict(zip(infosets, state["q"].tolist(), strict=True))
        self._visits = dict(zip(infosets, state["visits"].tolist(), strict=True))
