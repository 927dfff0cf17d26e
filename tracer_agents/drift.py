"""How well controllers have followed values that drift, as they do while generators learn.

External regret compares with one control for all time, which no drifting sequence has to allow. Two other measures of
the same play, from what a controller keeps of every update (r_t as in ``controllers.table``)::

    dynamic regret:           sum over t of max_a r_t(a)
    windowed regret, W:       max over stretches of W consecutive updates of max_a (sum of r_t(a) over the stretch)

Dynamic regret is against the better control of each single update; noise in the values counts in it, too, as hindsight.
No algorithm here promises anything about either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.table import TabularController
from tracer_env.errors import check_integer

__all__ = ["cotraining_regret", "dynamic_regret", "increments_of_history", "windowed_regret"]

# shape legend: n updates, I information sets, A = 2 controls

WINDOW = 4
"""Updates of the stretches that a training run reports."""


def increments_of_history(
    history: Mapping[str, Sequence[NDArray[np.float64]] | NDArray[np.float64]], default_speak: float = 0.5
) -> NDArray[np.float64]:
    """Return r_t of all updates, shape (n, I, A).

    Args:
        history: of a controller or of an exact fit: ``profiles`` and ``differences``.
        default_speak: P(SPEAK) in a set that was not known yet.
    """
    differences = history["differences"]
    sets = max((len(row) for row in differences), default=0)
    made = np.zeros((len(differences), sets, 2))
    for t, (profile, difference) in enumerate(zip(history["profiles"], differences, strict=True)):
        speak = np.full(len(difference), default_speak)
        speak[: len(profile)] = profile
        made[t, : len(difference)] = difference[:, None] * np.stack([-speak, 1.0 - speak], axis=1)
    return made


def dynamic_regret(increments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the dynamic regret of each set, shape (I,), from increments, shape (n, I, A)."""
    return np.asarray(increments.max(axis=2).sum(axis=0))


def windowed_regret(increments: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the largest regret of each set in any ``window`` consecutive updates, shape (I,).

    With fewer updates than that, all of them are the stretch.

    Raises:
        ConfigError: if the window is not an integer of at least 1.
    """
    check_integer("window", window)
    if not len(increments):
        return np.zeros(increments.shape[1])
    total = np.concatenate([np.zeros((1, *increments.shape[1:])), np.cumsum(increments, axis=0)])
    width = min(window, len(increments))
    return np.asarray((total[width:] - total[:-width]).max(axis=(0, 2)))


def cotraining_regret(controllers: Mapping[str, TabularController], window: int = WINDOW) -> dict[str, float]:
    """Sum up how a team has followed its values: regrets of all sets together, for each decision learned from.

    Args:
        controllers: by seat name, as they are at the end of co-training.
        window: updates of a stretch.

    Returns:
        ``external`` (positive part), ``dynamic``: in reward units per decision; ``windowed``: the same per decision of
        an average stretch; ``window``; ``updates``; ``decisions``.
    """
    external = dynamic = windowed = decisions = 0.0
    updates = 0
    for controller in controllers.values():
        increments = increments_of_history(controller.history, controller.default_speak)
        external += float(controller.column("external_regret").max(axis=1, initial=0.0).sum())
        dynamic += float(dynamic_regret(increments).sum())
        windowed += float(np.maximum(windowed_regret(increments, window), 0.0).sum())
        decisions += float(controller.column("visits").sum())
        updates = max(updates, controller.version)
    stretch = decisions * min(window, updates) / max(updates, 1)
    return {
        "external": external / max(decisions, 1.0),
        "dynamic": dynamic / max(decisions, 1.0),
        "windowed": windowed / max(stretch, 1.0),
        "window": float(window),
        "updates": float(updates),
        "decisions": decisions,
    }
