"""Proximal policy optimisation of the binary control over the features.

Actor and critic are two small networks over the scaled features x. A batch of decisions, with the control a played, its
probability b under the strategy that played it, and the team return U that followed, is gone over several times::

    A = U - V(x) before the update, normalised over the batch,      rho = P(a | x) / b
    loss = -mean w min(rho A, clip(rho, 1 - c, 1 + c) A) + c_v mean w (V(x) - U)^2 - c_e mean w H(P(. | x))

Returns are those of the whole episode (one team return at the end, no discount), so no generalised advantage
estimation is needed.

Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), arXiv 1707.06347, equation 7 and 9; one
network for all seats, told apart by features: Yu et al. (2022), arXiv 2103.01955.
Promises: nothing; the clip keeps one update near the strategy that played. No regret bound.

Sharing: give every seat an object of its own ("per seat"), or all seats the same object ("shared": ``is_reviewer`` is a
feature). A shared object gets one ``update`` for each seat's batch; each call is one whole update on that batch alone.
The second call finds a strategy that the first has moved; its ratios start away from 1 then and are right all the same,
because they are taken against the probability kept with the decision. So shared batches need ``speak_prob``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.batch import check_seed, feature_rows, played, speak_probs_played, weights_of
from tracer_agents.controllers.networks import (
    MLP,
    Weights,
    check_hidden,
    forward,
    load_torch,
    load_training,
    training_state,
)
from tracer_agents.controllers.states import State, check_state
from tracer_agents.errors import CheckpointError
from tracer_agents.interfaces import ControlValues
from tracer_env import FEATURES
from tracer_env.errors import ConfigError, check_integer
from tracer_env.wrappers import scale_features

if TYPE_CHECKING:
    import torch

__all__ = ["PPOController", "PPOSettings", "clipped_surrogate"]

# shape legend: n decisions, F features

_LEAST_PROB = 1e-6  # of what was played: a ratio must stay finite


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """See the module.

    Attributes:
        hidden: widths of the hidden layers of actor and critic.
        learning_rate: of Adam.
        clip: c, in (0, 1).
        epochs: passes over the batch, at least 1; each is one step on the whole batch.
        value_coef: c_v, at least 0.
        entropy_coef: c_e, at least 0, in units of the (normalised) advantage per nat.
        max_grad_norm: the gradient is cut to this length.
    """

    hidden: tuple[int, ...] = (32, 32)
    learning_rate: float = 0.01
    clip: float = 0.2
    epochs: int = 8
    value_coef: float = 0.5
    entropy_coef: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_hidden(self.hidden)
        if not 0.0 < self.clip < 1.0:
            raise ConfigError(f"clip must be in (0, 1), not {self.clip!r}.")
        check_integer("epochs", self.epochs)
        for name in ("learning_rate", "max_grad_norm"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be finite and positive, not {getattr(self, name)!r}.")
        for name in ("value_coef", "entropy_coef"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be finite and at least 0, not {getattr(self, name)!r}.")


class PPOController:
    """See the module. It starts at P(SPEAK) = 0.5 everywhere.

    Attributes:
        settings: the settings.
        updates: batches learned from.
    """

    def __init__(self, settings: PPOSettings | None = None, *, seed: int = 0) -> None:
        """Draw the networks.

        Args:
            settings: the settings.
            seed: of the first weights; nothing else is random.

        Raises:
            ConfigError: if the seed is none.
            MissingExtraError: if torch is not installed.
        """
        check_seed(seed)
        self.settings = settings or PPOSettings()
        self.updates = 0
        torch = load_torch("the PPO controller")
        generator = torch.Generator().manual_seed(seed)
        self._actor = MLP(len(FEATURES), self.settings.hidden, 1, generator)
        self._critic = MLP(len(FEATURES), self.settings.hidden, 1, generator)
        self._parameters = [*self._actor.parameters(), *self._critic.parameters()]
        self._optimiser = torch.optim.Adam(self._parameters, lr=self.settings.learning_rate)
        self._weights: Weights = self._actor.freeze()

    def speak_probs(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities of SPEAK, shape (n,), of unscaled features (n, F)."""
        logits = forward(self._weights, scale_features(features))[..., 0]
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the probability of SPEAK; 1 when SKIP is masked."""
        return float(self.speak_probs(features)) if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Make one PPO update on one batch. An empty batch changes nothing.

        Args:
            values: decisions with ``features``, ``control`` and ``returned``, and ``speak_prob`` when the object is
                shared; where it is missing, the present strategy is taken to have played.

        Raises:
            ConfigError: if a decision lacks one of them, or a number is not finite.
        """
        if not values:
            return
        import torch

        settings = self.settings
        scaled = feature_rows(values)
        controls, returned = played(values)
        own = self.speak_probs(np.stack([v.features for v in values if v.features is not None]))
        behaviour = speak_probs_played(values, own)
        old = torch.tensor(np.maximum(np.where(controls == 1, behaviour, 1.0 - behaviour), _LEAST_PROB)).float().log()
        rows, returns = torch.tensor(scaled), torch.tensor(returned).float()
        signs = torch.tensor(2.0 * controls - 1.0).float()
        raw = weights_of(values)
        weights = torch.tensor(raw / raw.sum()).float()
        with torch.no_grad():
            advantages = returns - self._critic(rows)[:, 0]
            advantages = advantages - (weights * advantages).sum()
            deviation = (weights * advantages**2).sum().sqrt()
            advantages = advantages / (deviation + 1e-8)
        for _ in range(settings.epochs):
            logits = self._actor(rows)[:, 0]
            log_probs = torch.nn.functional.logsigmoid(signs * logits)
            gain = clipped_surrogate(log_probs, old, advantages, weights, settings.clip)
            error = (weights * (self._critic(rows)[:, 0] - returns) ** 2).sum()
            speak = torch.sigmoid(logits)
            entropy = -(
                speak * torch.nn.functional.logsigmoid(logits) + (1.0 - speak) * torch.nn.functional.logsigmoid(-logits)
            )
            loss = -gain + settings.value_coef * error - settings.entropy_coef * (weights * entropy).sum()
            gradients = torch.autograd.grad(loss, self._parameters)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(self._parameters, settings.max_grad_norm)
            self._optimiser.step()
        self._weights = self._actor.freeze()
        self.updates += 1

    def state(self) -> State:
        """Return all that was learned, as arrays: ``load_state`` goes on from it."""
        own = {"updates": np.array(self.updates, dtype=np.int64)}
        return own | training_state(self._parameters, self._optimiser)

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` of an object with the same settings has returned.

        Raises:
            CheckpointError: if it does not fit; then nothing has changed.
        """
        check_state(state, self.state())
        if state["updates"] < 0:
            raise CheckpointError("the number of updates cannot be negative.")
        self.updates = int(state["updates"])
        load_training(self._parameters, self._optimiser, state)
        self._weights = self._actor.freeze()


def clipped_surrogate(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """Return sum w min(rho A, clip(rho, 1 - c, 1 + c) A), a number to be made large.

    Args:
        log_probs: of what was played, under the policy in training, shape (n,); the gradient flows here.
        old_log_probs: the same under the policy that played, shape (n,).
        advantages: shape (n,).
        weights: shape (n,), summing to 1.
        clip: c.
    """
    ratio = (log_probs - old_log_probs).exp()
    return (weights * (ratio * advantages).minimum(ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)).sum()
