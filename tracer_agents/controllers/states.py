"""What a learner's state is made of: named arrays, checked before they are taken over, and random streams as arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.errors import CheckpointError

__all__ = ["UNREADABLE", "State", "check_state", "load_stream", "stream_state"]

State = dict[str, NDArray[Any]]
"""Everything that a learner has learned, and what it needs to learn on as if it had never stopped."""

UNREADABLE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What reading a damaged or foreign ``.npz`` raises, from its container to the settings that it names."""

_WORD = 2**64


def check_state(
    state: Mapping[str, NDArray[Any]], like: Mapping[str, NDArray[Any]], grows: Collection[str] = ()
) -> None:
    """Check that a state could be the learner's own: the same arrays, of the same types and shapes, all finite.

    Args:
        state: what is to be loaded.
        like: the state of a learner with the same settings.
        grows: names of the arrays whose first axis grows with what is learned.

    Raises:
        CheckpointError: naming the array and the difference.
    """
    if set(state) != set(like):
        raise CheckpointError(f"its arrays should be {sorted(like)}, not {sorted(state)}.")
    for name, expected in like.items():
        found = state[name]
        skipped = int(name in grows)
        same_rank = found.ndim == expected.ndim and found.shape[skipped:] == expected.shape[skipped:]
        same_type = found.dtype == expected.dtype or found.dtype.kind == expected.dtype.kind == "U"  # of any length
        if not (same_rank and same_type):
            raise CheckpointError(
                f"array {name!r} is {found.dtype} of shape {found.shape}, which does not fit {expected.dtype} of shape "
                f"{('any',) * skipped + expected.shape[skipped:]}."
            )
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise CheckpointError(f"array {name!r} has numbers that are not finite.")


def stream_state(rng: np.random.Generator) -> NDArray[np.uint64]:
    """Return where a generator of ``numpy.random.default_rng`` (PCG64) stands, shape (6,)."""
    state = rng.bit_generator.state
    numbers = state["state"]["state"], state["state"]["inc"]
    words = [word for number in numbers for word in divmod(number, _WORD)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], dtype=np.uint64)


def load_stream(rng: np.random.Generator, words: NDArray[np.uint64]) -> None:
    """Put a generator where ``stream_state`` has found one."""
    high, low, inc_high, inc_low, has_half, half = words.tolist()
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high * _WORD + low, "inc": inc_high * _WORD + inc_low},
        "has_uint32": has_half,
        "uinteger": half,
    }
