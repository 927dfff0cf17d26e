"""A REINFORCE gate: a logistic policy over the features, moved along the sampled policy gradient.

    P(SPEAK | x) = sigma(theta . (1, x)),      x = scaled features
    g = sum_i w_i (U_i - b) (a_i - P(SPEAK | x_i)) (1, x_i) / sum_i w_i,      theta += learning_rate g

with a_i the control played (0 or 1), U_i the team return that followed and b a running mean of earlier returns. The
baseline leaves the expectation of g alone because it is moved only after the batch has been used; in the first batch,
which has no earlier returns, it is that batch's own mean.

Source: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning" (1992).
Promises: g is an unbiased estimate of the gradient of E[U] in this seat's parameters, averaged per decision, as long as
the batch was played by these parameters; so ascent, with small steps, to a stationary point of a logistic policy: not
to the optimum of an abstraction, and nothing while the other seats move. One object belongs to one seat: a shared one
would meet the second seat's batch with parameters it was not played by. No regret bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.batch import feature_rows, played, weights_of
from tracer_agents.controllers.states import State, check_state
from tracer_agents.errors import CheckpointError
from tracer_agents.interfaces import ControlValues
from tracer_env import FEATURES
from tracer_env.errors import ConfigError
from tracer_env.wrappers import scale_features

__all__ = ["ReinforceController", "ReinforceSettings", "log_likelihood", "policy_gradient"]

# shape legend: n decisions, F features

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReinforceSettings:
    """See the module.

    Attributes:
        learning_rate: step along the gradient, positive.
        baseline_decay: share of the old baseline that each batch keeps, in [0, 1).
    """

    learning_rate: float = 5.0
    baseline_decay: float = 0.9

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be finite and positive, not {self.learning_rate!r}.")
        if not 0.0 <= self.baseline_decay < 1.0:
            raise ConfigError(f"baseline_decay must be in [0, 1), not {self.baseline_decay!r}.")


class ReinforceController:
    """See the module. It has no randomness of its own and starts at P(SPEAK) = 0.5 everywhere.

    Attributes:
        settings: the settings.
        theta: float64, shape (1 + F,): the constant, then one number for each scaled feature.
        baseline: running mean of the returns; None before the first batch.
    """

    def __init__(self, settings: ReinforceSettings | None = None) -> None:
        """Start at 0."""
        self.settings = settings or ReinforceSettings()
        self.theta: _Floats = np.zeros(1 + len(FEATURES))
        self.baseline: float | None = None

    def speak_probs(self, features: NDArray[np.float32]) -> _Floats:
        """Return the probabilities of SPEAK, shape (n,), of unscaled features (n, F)."""
        return _sigmoid(_with_constant(scale_features(features)) @ self.theta)

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the probability of SPEAK; 1 when SKIP is masked."""
        return float(self.speak_probs(features[None])[0]) if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Make one step, then move the baseline. An empty batch changes nothing.

        Args:
            values: decisions with ``features``, ``control`` and ``returned``.

        Raises:
            ConfigError: if a decision lacks one of them, or a number is not finite.
        """
        if not values:
            return
        rows = _with_constant(feature_rows(values))
        controls, returns = played(values)
        weights = weights_of(values)
        mean = float(np.average(returns, weights=weights))
        baseline = mean if self.baseline is None else self.baseline
        gradient = policy_gradient(self.theta, rows, controls, returns - baseline, weights)
        self.theta = self.theta + self.settings.learning_rate * gradient
        kept = self.settings.baseline_decay
        self.baseline = mean if self.baseline is None else kept * self.baseline + (1.0 - kept) * mean

    def state(self) -> State:
        """Return all that was learned, as arrays: ``load_state`` goes on from it."""
        known = [] if self.baseline is None else [self.baseline]
        return {"theta": self.theta.copy(), "baseline": np.array(known, dtype=np.float64)}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` of an object with the same settings has returned.

        Raises:
            CheckpointError: if it does not fit; then nothing has changed.
        """
        check_state(state, self.state(), grows=("baseline",))
        if len(state["baseline"]) > 1:
            raise CheckpointError("there is one baseline, or none.")
        self.theta = state["theta"].copy()
        self.baseline = next(iter(state["baseline"].tolist()), None)


def _with_constant(rows: NDArray[np.floating[Any]]) -> _Floats:
    return np.concatenate([np.ones((len(rows), 1)), rows], axis=1)


def _sigmoid(logits: _Floats) -> _Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))  # no overflow


def log_likelihood(
    theta: _Floats, rows: _Floats, controls: NDArray[np.int64], advantages: _Floats, weights: _Floats
) -> float:
    """Return the weighted mean of advantage x log-probability of what was played: what the step climbs.

    Args:
        theta: shape (1 + F,).
        rows: shape (n, 1 + F).
        controls: shape (n,), 0 or 1.
        advantages: shape (n,).
        weights: shape (n,), positive.
    """
    signs = 2.0 * controls - 1.0
    log_probs = -np.logaddexp(0.0, -signs * (rows @ theta))
    return float(np.average(advantages * log_probs, weights=weights))


def policy_gradient(
    theta: _Floats, rows: _Floats, controls: NDArray[np.int64], advantages: _Floats, weights: _Floats
) -> _Floats:
    """Return the gradient of ``log_likelihood`` in theta, shape (1 + F,); same arguments."""
    scores = controls - _sigmoid(rows @ theta)
    return np.asarray((weights * advantages * scores) @ rows / weights.sum())
