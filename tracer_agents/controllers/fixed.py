"""Controllers that never learn: one probability everywhere, a fixed protocol, and the greedy play of a learned one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tracer_agents.interfaces import Controller, ControlValues
from tracer_env import FEATURES
from tracer_env.errors import ConfigError, UnknownNameError, check_integer

__all__ = ["FIXED_CONTROLLERS", "FixedController", "GreedyController", "ProposeReviewRevise", "make_fixed"]

_COLUMN = {feature.name: k for k, feature in enumerate(FEATURES)}


class FixedController:
    """Speaks with one probability at every information set; never below what the mask demands.

    Attributes:
        probability: of SPEAK.
    """

    def __init__(self, speak_prob: float) -> None:
        """Store the probability.

        Args:
            speak_prob: probability of SPEAK, in [0, 1].

        Raises:
            ConfigError: if it is outside [0, 1].
        """
        if not 0.0 <= speak_prob <= 1.0:
            raise ConfigError(f"speak_prob must be in [0, 1], not {speak_prob!r}.")
        self.probability = float(speak_prob)

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the fixed probability; 1 when SKIP is masked."""
        return self.probability if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


class ProposeReviewRevise:
    """The fixed protocol: propose, one review, a revision only after WRONG, then silence.

    It reads the features alone, and one object can sit on every seat:

    * a proposer SPEAKs while no valid answer stands, and once more while the votes are negative and no valid proposal
      but the first ones has been made;
    * a reviewer SPEAKs while a valid first answer stands that was not reviewed yet and can still be revised.

    A verdict shows in the votes, or by a known P(RIGHT). So an unparsable verdict without a P(RIGHT) does not show, and
    the next reviewer reviews again; and a revision that is unparsable under ``on_invalid="keep"`` is tried again.

    Attributes:
        first_proposals: valid proposals that are still first ones.
    """

    def __init__(self, first_proposals: int = 1) -> None:
        """Store how the game begins.

        Args:
            first_proposals: valid proposals that are still first ones: 1, or the number of proposers when they all
                propose at once (``schedule="simultaneous"``).

        Raises:
            ConfigError: if it is not a positive integer.
        """
        check_integer("first_proposals", first_proposals)
        self.first_proposals = first_proposals

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return 0 or 1; 1 when SKIP is masked.

        Raises:
            ConfigError: if the features are not those of ``tracer_env.FEATURES``.
        """
        if not mask[0]:
            return 1.0
        if np.shape(features) != (len(FEATURES),):
            raise ConfigError(f"the protocol reads {len(FEATURES)} features (tracer_env.FEATURES), not {features!r}.")
        seen = {name: float(features[k]) for name, k in _COLUMN.items()}
        stands, unrevised = seen["answer_stands"] == 1.0, seen["proposals"] <= self.first_proposals
        if seen["is_reviewer"] == 1.0:
            reviewed = seen["votes"] != 0.0 or seen["p_right_known"] == 1.0
            return float(stands and unrevised and not reviewed and seen["is_last"] == 0.0)
        return float(not stands or (unrevised and seen["votes"] < 0.0))

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


class GreedyController:
    """Plays the likelier control of another controller, SPEAK in a tie, and does not learn: how policies are deployed.

    Of a ``TabularController`` this would be the greedy last iterate; use its ``FrozenController``.
    """

    def __init__(self, learned: Controller) -> None:
        """Wrap a learned controller."""
        self._learned = learned

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return 0 or 1; 1 when SKIP is masked."""
        return 1.0 if self._learned.speak_prob(infoset, features, mask) >= 0.5 else 0.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


FIXED_CONTROLLERS: Mapping[str, Callable[[], Controller]] = {
    "always": lambda: FixedController(1.0),
    "never": lambda: FixedController(0.0),
    "random": lambda: FixedController(0.5),
    "propose_review_revise": ProposeReviewRevise,
}
"""The fixed controllers by name."""


def make_fixed(name: str) -> Controller:
    """Return a fixed controller by name.

    Raises:
        UnknownNameError: if the name is not one of ``FIXED_CONTROLLERS``.
    """
    if name not in FIXED_CONTROLLERS:
        raise UnknownNameError("controller", name, FIXED_CONTROLLERS)
    return FIXED_CONTROLLERS[name]()
