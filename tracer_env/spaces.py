"""Gymnasium spaces of the game: model text, the action, the observation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from tracer_env.infosets import FEATURES

__all__ = ["UtteranceSpace", "action_space", "observation_space"]

_SAMPLES = (
    "",
    "17 + 5 = 22\n#### 22",
    "RIGHT",
    "WRONG\nStep 2: 22 - 9 = 13",
    "I think so.",
    "\\boxed{\\frac{1}{2}}",
    "#### 7",
    "ok 👍",
)


class UtteranceSpace(spaces.Space[str]):
    """All strings, of any length and content; the text rule of the game clips what is too long.

    Gymnasium's ``Text`` excludes spaces and LaTeX by default and takes 134 ms a sample with all of Unicode.
    Samples are short and of the kinds that occur; they are not uniform over strings.
    """

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        """Make the space.

        Args:
            seed: seeds ``sample``.
        """
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text cannot be flattened to an array."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Return a short text. Masks do not apply to text: only None is accepted."""
        if mask is not None or probability is not None:
            raise ValueError("an utterance has no mask.")
        return str(_SAMPLES[int(self.np_random.integers(len(_SAMPLES)))])

    def contains(self, x: Any) -> bool:
        """Return whether ``x`` is a string; every string is inside, of any length and content."""
        return isinstance(x, str)

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        """Return the samples as they are."""
        return [str(s) for s in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        """Return the samples as they are."""
        return [str(s) for s in sample_n]

    def __repr__(self) -> str:
        """Keep it short: the characters are not listed."""
        return "UtteranceSpace()"

    def __eq__(self, other: object) -> bool:
        """All such spaces are equal."""
        return isinstance(other, UtteranceSpace)

    def __hash__(self) -> int:
        """Hash by type, as all such spaces are equal."""
        return hash(UtteranceSpace)


def action_space() -> spaces.Dict:
    """Return ``Dict(control=Discrete(2), utterance=UtteranceSpace())``."""
    return spaces.Dict({"control": spaces.Discrete(2), "utterance": UtteranceSpace()})


def observation_space() -> spaces.Dict:
    """Return ``Dict(prompt, features: Box float32 (len(FEATURES),), control_mask: MultiBinary(2))``."""
    low = np.array([f.low for f in FEATURES], dtype=np.float32)
    high = np.array([f.high for f in FEATURES], dtype=np.float32)
    return spaces.Dict(
        {
            "prompt": UtteranceSpace(),
            "features": spaces.Box(low, high, dtype=np.float32),
            "control_mask": spaces.MultiBinary(2),
        }
    )
