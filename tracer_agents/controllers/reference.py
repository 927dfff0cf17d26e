"""A DELIBERATELY FLAWED BASELINE: the controller update of the public TRACER code, to measure what its flaws cost.

Do not deploy it. Regret matching from a uniform start, one update for each visit, in order, whatever its batch::

    r(a) = v(a) - sum_b s(b) v(b),    R += r,    strategy sum += s,    next s = max(R, 0), normalised, or uniform

Source: github.com/Shark-Forest/TRACER, ``cfr_core.py``, ``controllers.py`` and ``runtime.py`` (behaviour, not code),
with the flaws of ``reference-flaws.md``:

* C1: after SKIP (keep) a proposer values SPEAK (refresh) by the answer that was kept, so that both values are equal and
  r = 0, while the strategy sum grows: a keep never teaches, and its strategy counts. After SPEAK both values are used.
* C2: a reviewer's SKIP is valued by the answer, its SPEAK by the verdict. This lies in the values, not in the update:
  with those of the estimator ``local`` under ``TracerRewards`` (one candidate; ``unparsable=0``) it is all there, with
  any other values it is not.
* C17: ``ReferenceGreedy``, the greedy average strategy, plays index 0 (SKIP) at an unseen set and in ties, instead of
  the declared default (SPEAK).

C3 is the game's ``schedule="reference"``, C16 its ``on_invalid="replace"``.

What is mapped to what: keep and skip are ``skip``, refresh and speak are ``speak`` of ``ControlValues``, the action
that was played is ``control``; importance weights are ignored, as the code has none. Whether the seat is a proposer is
read off the information set's key, which begins with the role in every abstraction.

Promises: none. With C1 the bound of regret matching on G does not hold for a proposer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.batch import both_values
from tracer_agents.controllers.states import State, check_state
from tracer_agents.errors import CheckpointError
from tracer_agents.interfaces import ControlValues
from tracer_env.errors import ConfigError
from tracer_env.types import Role

__all__ = ["ReferenceController", "ReferenceGreedy"]


class ReferenceController:
    """See the module: a flawed baseline."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self._regret: dict[str, NDArray[np.float64]] = {}
        self._strategy_sum: dict[str, NDArray[np.float64]] = {}

    @property
    def infosets(self) -> tuple[str, ...]:
        """Keys of all information sets that were updated, in order of appearance."""
        return tuple(self._regret)

    def regret(self, infoset: str) -> NDArray[np.float64]:
        """Return R, shape (2,)."""
        return self._regret.get(infoset, np.zeros(2)).copy()

    def strategy_sum(self, infoset: str) -> NDArray[np.float64]:
        """Return the sum of the strategies played, shape (2,)."""
        return self._strategy_sum.get(infoset, np.zeros(2)).copy()

    def current_strategy(self, infoset: str) -> NDArray[np.float64]:
        """Return the last iterate, shape (2,); uniform at an unseen set."""
        positive = np.maximum(self.regret(infoset), 0.0)
        return positive / positive.sum() if positive.sum() > 0.0 else np.full(2, 0.5)

    def average_strategy(self, infoset: str) -> NDArray[np.float64]:
        """Return the average of the strategies played, shape (2,); the last iterate where there is none."""
        total = self.strategy_sum(infoset)
        return total / total.sum() if total.sum() > 0.0 else self.current_strategy(infoset)

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the last iterate's probability of SPEAK; 1 when SKIP is masked."""
        return float(self.current_strategy(infoset)[1]) if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Make one update for each visit, in order: within a batch the strategy moves.

        Args:
            values: decisions with ``control``.

        Raises:
            ConfigError: if a decision was not played, its key does not tell the role, or a value is not finite.
        """
        for value, both in zip(values, both_values(values), strict=True):
            if value.control not in (0, 1):
                raise ConfigError(
                    f"a decision in {value.infoset!r} has control {value.control!r}; the reference learns from what "
                    "was played: pass decisions of played episodes."
                )
            worth = both
            if _is_proposer(value.infoset) and value.control == 0:
                worth = np.full(2, both[0])  # C1
            strategy = self.current_strategy(value.infoset)
            self._regret[value.infoset] = self.regret(value.infoset) + worth - strategy @ worth
            self._strategy_sum[value.infoset] = self.strategy_sum(value.infoset) + strategy

    def state(self) -> State:
        """Return all that was learned, as arrays: ``load_state`` goes on from it."""
        return {
            "infosets": np.array(self.infosets, dtype=np.str_),
            "regret": np.array(list(self._regret.values()), dtype=np.float64).reshape(-1, 2),
            "strategy_sum": np.array(list(self._strategy_sum.values()), dtype=np.float64).reshape(-1, 2),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` of an object with the same settings has returned.

        Raises:
            CheckpointError: if it does not fit; then nothing has changed.
        """
        check_state(state, self.state(), grows=("infosets", "regret", "strategy_sum"))
        infosets = state["infosets"].tolist()
        if not len(set(infosets)) == len(infosets) == len(state["regret"]) == len(state["strategy_sum"]):
            raise CheckpointError("every information set needs one row of regrets and one of strategies.")
        self._regret = dict(zip(infosets, state["regret"].copy(), strict=True))
        self._strategy_sum = dict(zip(infosets, state["strategy_sum"].copy(), strict=True))


def _is_proposer(infoset: str) -> bool:
    for role in Role:
        if infoset.startswith(role.value):
            return role is Role.PROPOSER
    raise ConfigError(
        f"the information set {infoset!r} does not begin with a role; the reference update differs between proposers "
        "and reviewers, so name keys as tracer_env.infoset_key does."
    )


class ReferenceGreedy:
    """What the public code plays in evaluation: the likelier control of the average strategy, index 0 in ties (C17)."""

    def __init__(self, learned: ReferenceController) -> None:
        """Wrap a learned controller."""
        self._learned = learned

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return 0 or 1; 1 when SKIP is masked."""
        if not mask[0]:
            return 1.0
        return float(np.argmax(self._learned.average_strategy(infoset)))  # the first of equals, also at an unseen set

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""
