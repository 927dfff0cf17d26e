"""The protocols every learner plugs into, and the records that travel between them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tracer_env import Role, Utterance

__all__ = [
    "Candidate",
    "ControlValues",
    "Controller",
    "Generator",
    "Group",
    "Request",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One text to be written.

    Attributes:
        prompt: what the seat reads; a ``tracer_env.Prompt`` can be shortened to the context, a ``str`` cannot.
        policy: name of the policy (adapter) that writes.
        role: the role of the seat that speaks; reviewers get ``p_right``.
        temperature: sampling temperature, at least 0; 0 is greedy decoding.
    """

    prompt: str
    policy: str
    role: Role
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One text that was written, with everything needed to train on it.

    Attributes:
        text: decoded text without the end-of-text token.
        prompt_ids: int64, shape (prompt length,): exactly what the model read.
        token_ids: int64, shape (L,): exactly what was sampled, end-of-text included when it was reached.
        logprobs: float32, shape (L,), at most 0: log-probability of each sampled token under the distribution
            it was sampled from (temperature and masks applied); of the model at temperature 1 for greedy decoding.
        p_right: for reviewers, P(RIGHT) / (P(RIGHT) + P(WRONG)) at the first token, in [0, 1]; else None.
        truncated: stopped by the length limit.
        num_cut: sections of the prompt that were cut to fit the context.
    """

    text: str
    prompt_ids: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    p_right: float | None = None
    truncated: bool = False
    num_cut: int = 0

    @property
    def utterance(self) -> Utterance:
        """The text as the environment takes it, with token counts and log-probabilities."""
        known = len(self.logprobs) > 0
        return Utterance(
            self.text,
            tokens_in=len(self.prompt_ids),
            tokens_out=len(self.token_ids),
            mean_logprob=float(np.mean(self.logprobs)) if known else None,
            min_logprob=float(np.min(self.logprobs)) if known else None,
            p_right=self.p_right,
            truncated=self.truncated,
        )


@runtime_checkable
class Generator(Protocol):
    """Writes texts. One call serves every seat of every dialogue that must speak now."""

    def generate(self, requests: Sequence[Request]) -> list[Candidate]:
        """Write one candidate for each request, in order. An empty list of requests gives an empty list."""
        ...

    def reseed(self, seed: int) -> None:
        """Restart the sampling randomness: the same seed and requests give the same candidates."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlValues:
    """What both controls are worth at one visited decision, in reward units.

    Attributes:
        infoset: key of the information set.
        skip: estimated value of SKIP.
        speak: estimated value of SPEAK.
        weight: importance weight of the visit, positive: 1 / probe rate, and under counterfactual weighting also
            1 / ``reach``.
        reach: the visit counts in the average strategy with ``weight`` times this: the probability of the seat's own
            controls on the way under counterfactual weighting, 1 under weighting by visits.
        features: float32 feature vector of the decision, for learners that read it.
        speak_prob: the probability of SPEAK with which it was decided; None when nobody kept it.
        control: what was played, 0 (SKIP) or 1 (SPEAK); None when nothing was.
        returned: the team return of the episode that went on with it. Regret minimisers read ``skip`` and ``speak``;
            learners that see one outcome only, as policy gradients do, read this.
    """

    infoset: str
    skip: float
    speak: float
    weight: float = 1.0
    reach: float = 1.0
    features: NDArray[np.float32] | None = field(default=None, compare=False)
    speak_prob: float | None = None
    control: int | None = None
    returned: float | None = None


@runtime_checkable
class Controller(Protocol):
    """Decides SPEAK or SKIP for one seat."""

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the probability of SPEAK, in [0, 1]; 1 when SKIP is masked."""
        ...

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn from one batch of decisions that were all visited under the current strategy."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """K candidates of one seat from the same context, with the rewards of its role.

    Attributes:
        policy: the policy that wrote them.
        candidates: K candidates.
        rewards: float64, shape (K,).
        meta: anything to log (question id, round, role).
    """

    policy: str
    candidates: tuple[Candidate, ...]
    rewards: NDArray[np.float64]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_spread(self) -> bool:
        """True when the rewards differ: only then does the group carry a gradient."""
        return bool(np.ptp(self.rewards) > 1e-12)
