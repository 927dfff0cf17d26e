"""What the learned baselines read from a batch of decisions: columns of numbers, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracer_agents.interfaces import ControlValues
from tracer_env.errors import ConfigError
from tracer_env.wrappers import scale_features

__all__ = ["both_values", "check_seed", "feature_rows", "played", "speak_probs_played", "weights_of"]

# shape legend: n decisions, F features, A = 2 controls (SKIP, SPEAK)


def feature_rows(values: Sequence[ControlValues]) -> NDArray[np.float32]:
    """Return the scaled features, shape (n, F).

    Raises:
        ConfigError: if a decision has none, or they are not finite.
    """
    rows = []
    for value in values:
        if value.features is None or not np.isfinite(value.features).all():
            raise ConfigError(
                f"a decision in {value.infoset!r} has no finite features, which this controller learns from; fill "
                "ControlValues.features as rollouts do."
            )
        rows.append(value.features)
    return scale_features(np.array(rows, dtype=np.float32))


def weights_of(values: Sequence[ControlValues]) -> NDArray[np.float64]:
    """Return the weights of the visits, shape (n,), without counterfactual ones: these learners follow what is played.

    Raises:
        ConfigError: if one is not finite and positive.
    """
    weights = np.array([value.weight * value.reach for value in values], dtype=np.float64)
    for value, weight in zip(values, weights, strict=True):
        if not (np.isfinite(weight) and weight > 0.0):
            raise ConfigError(
                f"weights must be finite and positive, not {value.weight!r} (reach {value.reach!r}) in "
                f"{value.infoset!r}."
            )
    return weights


def both_values(values: Sequence[ControlValues]) -> NDArray[np.float64]:
    """Return the values of SKIP and SPEAK, shape (n, A).

    Raises:
        ConfigError: if one is not finite.
    """
    for value in values:
        if not (np.isfinite(value.skip) and np.isfinite(value.speak)):
            raise ConfigError(f"values of {value.infoset!r} must be finite, not {value.skip!r} and {value.speak!r}.")
    return np.array([(value.skip, value.speak) for value in values], dtype=np.float64)


def played(values: Sequence[ControlValues]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the controls that were played and the team returns that followed, both shape (n,).

    Raises:
        ConfigError: if a decision has none.
    """
    for value in values:
        if value.control not in (0, 1) or value.returned is None or not np.isfinite(value.returned):
            raise ConfigError(
                f"a decision in {value.infoset!r} has control {value.control!r} and return {value.returned!r}; this "
                "controller learns from what was played: pass decisions of played episodes."
            )
    controls = np.array([value.control for value in values], dtype=np.int64)
    return controls, np.array([value.returned for value in values], dtype=np.float64)


def speak_probs_played(values: Sequence[ControlValues], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of SPEAK with which the decisions were made, shape (n,).

    Args:
        values: the decisions.
        own: what the controller itself would play there, for decisions whose probability nobody kept.

    Raises:
        ConfigError: if one is outside [0, 1], or leaves no chance to what was played.
    """
    probs = np.array([o if v.speak_prob is None else v.speak_prob for v, o in zip(values, own.tolist(), strict=True)])
    for value, prob in zip(values, probs.tolist(), strict=True):
        if not 0.0 <= prob <= 1.0 or (value.control is not None and prob == 1.0 - value.control):
            raise ConfigError(f"control {value.control!r} cannot have been played at P(SPEAK) = {prob!r}.")
    return probs


def check_seed(seed: int) -> None:
    """Check a seed.

    Raises:
        ConfigError: if it is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"a seed is an integer of at least 0, not {seed!r}.")
