"""Regret estimators over the feature vector, for abstractions too large for a table.

``AdvantageNetwork`` (Deep CFR). After update t, visited at features x under the strategy s with both controls valued::

    r(a) = v(a) - sum_b s(b) v(b)                        goes into a reservoir with its iteration t
    D = argmin sum w t |D(x) - r|^2                      over the reservoir, by Adam on minibatches
    next s(. | x) = max(D(x), 0), normalised             the control of larger D where none is positive

Source: Brown, Lerer, Gross & Sandholm, "Deep Counterfactual Regret Minimization" (2019); average strategy from kept
networks instead of a second one: Steinberger, "Single Deep Counterfactual Regret Minimization" (2019).
What converges: for regrets weighted by counterfactual reach, and with an error of the network that vanishes, the
average strategy, as linear CFR's does. Here visits are weighted by their reach under all controls and networks err:
nothing is certified, there is no bound on G. ``speak_prob`` is the last iterate, which need not converge;
``SnapshotAverage`` is the average over kept networks, without own reach: a heuristic where a seat decides twice.

``RegretRegression``. Ridge regression of d = v(SPEAK) - v(SKIP) on a basis phi of the features, one fit
f_t(x) = c_t . phi(x) for each update, and play by what the fits add up to::

    "matching":  R_t(SPEAK | x) = sum_i (1 - s_i(x)) f_i(x),  R_t(SKIP | x) = -sum_i s_i(x) f_i(x),
                 next s(. | x) = max(R_t, 0), normalised, or the default
    "greedy":    SPEAK iff sum_i f_i(x) > 0

Source: Waugh, Morrill, Bagnell & Bowling, "Solving Games with Functional Regret Estimation" (2015), of which this is
the plainest form. Closed form, numpy only.
Promises: where phi tells all decisions apart and nothing is shrunk, "matching" is regret matching on batch means; else
it is as good as the regression, and has no bound. "greedy" is follow the leader, of linear regret against an adversary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.batch import both_values, check_seed, feature_rows, weights_of
from tracer_agents.controllers.networks import (
    MLP,
    Weights,
    check_hidden,
    forward,
    load_torch,
    load_training,
    training_state,
)
from tracer_agents.controllers.states import State, check_state, load_stream, stream_state
from tracer_agents.errors import CheckpointError
from tracer_agents.interfaces import ControlValues
from tracer_env import FEATURES
from tracer_env.errors import ConfigError, UnknownNameError, check_integer
from tracer_env.wrappers import scale_features

__all__ = [
    "AdvantageNetwork",
    "AdvantageSettings",
    "RegretRegression",
    "RegretRegressionSettings",
    "Reservoir",
    "SnapshotAverage",
]

# shape legend: n decisions, F features, A = 2 controls (SKIP, SPEAK), M remembered, P terms of the basis


class Reservoir:
    """A uniform sample, without replacement, of all rows ever offered (Vitter 1985, algorithm R).

    Attributes:
        rows: float64, shape (M, C): what is kept; M grows up to the capacity.
        seen: how many rows were offered.
    """

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        """Start empty.

        Args:
            capacity: most rows to keep, at least 1.
            rng: draws what is kept.
        """
        self.capacity, self.seen = capacity, 0
        self._rng = rng
        self._kept: NDArray[np.float64] = np.zeros((0, 0))

    @property
    def rows(self) -> NDArray[np.float64]:
        """See the class."""
        return self._kept[: min(self.seen, self.capacity)]

    def add(self, rows: NDArray[np.float64]) -> None:
        """Offer rows, shape (n, C): row number k (from 1) replaces a kept one with chance capacity / k."""
        places = np.arange(self.seen, self.seen + len(rows))
        late = places >= self.capacity
        places[late] = self._rng.integers(0, places[late] + 1)
        chosen = places < self.capacity
        size = min(self.seen + len(rows), self.capacity)
        if size > len(self._kept):  # room is doubled, so that many small batches cost no more than one large one
            larger = np.zeros((min(self.capacity, max(size, 2 * len(self._kept))), rows.shape[1]))
            if len(self._kept):
                larger[: len(self._kept)] = self._kept
            self._kept = larger
        self._kept[places[chosen]] = rows[chosen]  # of two that fall on one place the later one stays
        self.seen += len(rows)

    def state(self, columns: int) -> State:
        """Return what is kept and how it goes on, as arrays; C is told because an empty one does not know it."""
        return {
            "rows": self.rows.reshape(-1, columns).copy(),
            "seen": np.array(self.seen, dtype=np.int64),
            "stream": stream_state(self._rng),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` has returned; other arrays of it are left alone."""
        self._kept, self.seen = state["rows"].copy(), int(state["seen"])
        load_stream(self._rng, state["stream"])


# --- Deep CFR --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AdvantageSettings:
    """See the module.

    Attributes:
        hidden: widths of the hidden layers.
        capacity: decisions that the reservoir keeps.
        steps: steps of Adam after each update.
        batch_size: decisions of each step.
        learning_rate: of Adam.
        warm_start: go on from the last network; else train a fresh one after every update, as Deep CFR does, which
            needs many more steps each time.
        snapshots: networks kept for the average; a uniform sample of all iterates.
        default_speak: P(SPEAK) before the first update, in [0, 1].
    """

    hidden: tuple[int, ...] = (64, 64)
    capacity: int = 100_000
    steps: int = 100
    batch_size: int = 256
    learning_rate: float = 0.003
    warm_start: bool = True
    snapshots: int = 32
    default_speak: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_hidden(self.hidden)
        for name in ("capacity", "steps", "batch_size", "snapshots"):
            check_integer(name, getattr(self, name))
        if not 0.0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be finite and positive, not {self.learning_rate!r}.")
        if not 0.0 <= self.default_speak <= 1.0:
            raise ConfigError(f"default_speak must be in [0, 1], not {self.default_speak!r}.")


class AdvantageNetwork:
    """See the module.

    Attributes:
        settings: the settings.
        updates: t.
        memory: the reservoir; its columns are the scaled features, r(SKIP), r(SPEAK), and w t.
        loss: weighted mean squared error of the last step of training, in squared reward units; None before it.
    """

    def __init__(self, settings: AdvantageSettings | None = None, *, seed: int = 0) -> None:
        """Start with an empty memory.

        Args:
            settings: the settings.
            seed: of weights, minibatches and reservoirs.

        Raises:
            ConfigError: if the seed is none.
            MissingExtraError: if torch is not installed.
        """
        check_seed(seed)
        self.settings = settings or AdvantageSettings()
        self.updates = 0
        self.loss: float | None = None
        self._torch = load_torch("the advantage network")
        memory, kept = np.random.default_rng(seed).spawn(2)
        self.memory = Reservoir(self.settings.capacity, memory)
        self._generator = self._torch.Generator().manual_seed(seed)
        self._begin()
        self._weights: Weights | None = None
        self._snapshots: list[tuple[int, Weights]] = []
        self._snapshot_rng = kept

    def _begin(self) -> None:
        """Draw a fresh network."""
        self._network = MLP(len(FEATURES), self.settings.hidden, 2, self._generator)
        self._optimiser = self._torch.optim.Adam(self._network.parameters(), lr=self.settings.learning_rate)

    def advantages(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the predicted advantages D, shape (..., A), of unscaled features (..., F); 0 before any update."""
        if self._weights is None:
            return np.zeros((*features.shape[:-1], 2))
        return forward(self._weights, scale_features(features))

    def speak_probs(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the last iterate's probabilities of SPEAK, shape (...,), of unscaled features (..., F)."""
        if self._weights is None:
            return np.full(features.shape[:-1], self.settings.default_speak, dtype=np.float64)
        return _match(self.advantages(features))

    def average_speak_probs(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the average over the kept networks, iterate t weighing t; shapes as ``speak_probs``.

        The strategy before the first update is no network and is left out.
        """
        if not self._snapshots:
            return self.speak_probs(features)
        scaled = scale_features(features)
        total = sum(t for t, _ in self._snapshots)
        parts = [t / total * _match(forward(weights, scaled)) for t, weights in self._snapshots]
        return np.asarray(np.clip(np.sum(parts, axis=0), 0.0, 1.0))

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the last iterate's probability of SPEAK; 1 when SKIP is masked."""
        return float(self.speak_probs(features)) if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Remember the regrets of a batch, then train. An empty batch changes nothing.

        Args:
            values: decisions with ``features``. Regrets are taken against ``speak_prob``, the strategy that played;
                where nobody kept it, against the present strategy.

        Raises:
            ConfigError: if a decision has no features, or a number is not finite.
        """
        if not values:
            return
        scaled, both, weights = feature_rows(values), both_values(values), weights_of(values)
        own = self.speak_probs(np.stack([v.features for v in values if v.features is not None]))
        kept = [o if v.speak_prob is None else v.speak_prob for v, o in zip(values, own.tolist(), strict=True)]
        speak = np.array(kept, dtype=np.float64)
        worth = (1.0 - speak) * both[:, 0] + speak * both[:, 1]
        self.updates += 1
        self.memory.add(np.column_stack([scaled, both - worth[:, None], weights * self.updates]))
        if not self.settings.warm_start:
            self._begin()
        self._train()
        self._weights = self._network.freeze()
        self._keep(self._weights)

    def _train(self) -> None:
        torch, rows = self._torch, self.memory.rows
        inputs = torch.tensor(rows[:, :-3], dtype=torch.float32)
        targets = torch.tensor(rows[:, -3:-1], dtype=torch.float32)
        weights = torch.tensor(rows[:, -1] / rows[:, -1].mean(), dtype=torch.float32)
        parameters = self._network.parameters()
        size = (self.settings.batch_size,)
        loss = torch.zeros(())
        for _ in range(self.settings.steps):
            picked = torch.randint(len(rows), size, generator=self._generator)
            errors = (self._network(inputs[picked]) - targets[picked]) ** 2
            loss = (weights[picked] * errors.sum(dim=1)).mean()
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self._optimiser.step()
        self.loss = float(loss.detach())

    def _keep(self, weights: Weights) -> None:
        """Offer an iterate to the reservoir of snapshots."""
        if self.updates <= self.settings.snapshots:
            self._snapshots.append((self.updates, weights))
        elif (place := int(self._snapshot_rng.integers(0, self.updates))) < self.settings.snapshots:
            self._snapshots[place] = self.updates, weights

    def state(self) -> State:
        """Return all that was learned, as arrays: ``load_state`` goes on from it."""
        known = [] if self.loss is None else [self.loss]
        arrays: State = {
            "updates": np.array(self.updates, dtype=np.int64),
            "loss": np.array(known, dtype=np.float64),
            "generator": self._generator.get_state().numpy().copy(),
            "snapshot_stream": stream_state(self._snapshot_rng),
            "snapshots": np.array([t for t, _ in self._snapshots], dtype=np.int64),
        }
        for k, parameter in enumerate(self._network.parameters()):
            kept = [weights[k // 2][k % 2] for _, weights in self._snapshots]
            arrays[f"snapshot_{k}"] = np.array(kept, dtype=np.float64).reshape(-1, *parameter.shape)
        memory = self.memory.state(len(FEATURES) + 3)
        return arrays | memory | training_state(self._network.parameters(), self._optimiser)

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` of an object with the same settings has returned.

        Raises:
            CheckpointError: if it does not fit; then nothing has changed.
        """
        parameters = self._network.parameters()
        kept = [f"snapshot_{k}" for k in range(len(parameters))]
        check_state(state, self.state(), grows=("rows", "loss", "snapshots", *kept))
        updates, seen = int(state["updates"]), int(state["seen"])
        if updates < 0 or len(state["loss"]) != min(updates, 1):
            raise CheckpointError(f"there is a loss since the first update, and {updates} were made.")
        if seen < 0 or len(state["rows"]) != min(seen, self.settings.capacity):
            raise CheckpointError(f"the memory holds {len(state['rows'])} rows of {seen}.")
        if {len(state[name]) for name in ("snapshots", *kept)} != {min(updates, self.settings.snapshots)}:
            raise CheckpointError(f"its numbers of snapshots do not fit {updates} updates.")
        try:
            self._generator.set_state(self._torch.tensor(state["generator"]))
        except RuntimeError as error:
            raise CheckpointError(f"array 'generator' is no state of a generator: {error}") from error
        self.updates, self.loss = updates, next(iter(state["loss"].tolist()), None)
        self.memory.load_state(state)
        load_training(parameters, self._optimiser, state)
        load_stream(self._snapshot_rng, state["snapshot_stream"])
        self._weights = self._network.freeze() if updates else None
        self._snapshots = []
        for row, iterate in enumerate(state["snapshots"].tolist()):
            flat = [state[name][row].copy() for name in kept]
            self._snapshots.append((iterate, tuple(zip(flat[::2], flat[1::2], strict=True))))


def _match(advantages: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return P(SPEAK) by regret matching; where nothing is positive, the control of larger advantage (Deep CFR)."""
    positive = np.maximum(advantages, 0.0)
    total = positive.sum(axis=-1)
    best = np.where(advantages[..., 0] == advantages[..., 1], 0.5, advantages[..., 1] > advantages[..., 0])
    return np.asarray(np.where(total > 0.0, positive[..., 1] / np.where(total > 0.0, total, 1.0), best))


class SnapshotAverage:
    """The average strategy of an ``AdvantageNetwork`` as a controller that does not learn."""

    def __init__(self, learned: AdvantageNetwork) -> None:
        """Wrap a learned controller."""
        self._learned = learned

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the average probability of SPEAK; 1 when SKIP is masked."""
        return float(self._learned.average_speak_probs(features)) if mask[0] else 1.0

    def speak_probs(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the average P(SPEAK), shape (n,), for unscaled features, shape (n, F)."""
        return self._learned.average_speak_probs(features)

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


# --- regression ------------------------------------------------------------------------------------------------------

_PLAYS = ("matching", "greedy")
_BASES = ("linear", "quadratic")


@dataclass(frozen=True, kw_only=True)
class RegretRegressionSettings:
    """See the module.

    Attributes:
        play: ``"matching"`` or ``"greedy"``.
        basis: ``"linear"``: a constant and the scaled features, P = 1 + F; ``"quadratic"``: also all their products.
        ridge: penalty on the squared coefficients, positive, in decisions: a fit to many more is hardly shrunk.
        default_speak: P(SPEAK) before the first update, in [0, 1].
    """

    play: str = "matching"
    basis: str = "quadratic"
    ridge: float = 0.1
    default_speak: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.play not in _PLAYS:
            raise UnknownNameError("play", self.play, _PLAYS)
        if self.basis not in _BASES:
            raise UnknownNameError("basis", self.basis, _BASES)
        if not 0.0 < self.ridge < math.inf:
            raise ConfigError(f"ridge must be finite and positive, not {self.ridge!r}.")
        if not 0.0 <= self.default_speak <= 1.0:
            raise ConfigError(f"default_speak must be in [0, 1], not {self.default_speak!r}.")


class RegretRegression:
    """See the module. It has no randomness of its own.

    Attributes:
        settings: the settings.
    """

    def __init__(self, settings: RegretRegressionSettings | None = None) -> None:
        """Start without a fit."""
        self.settings = settings or RegretRegressionSettings()
        self._fits: list[NDArray[np.float64]] = []

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """One fit for each update, shape (updates, P)."""
        terms = _basis(np.zeros((0, len(FEATURES))), self.settings.basis).shape[1]
        return np.array(self._fits, dtype=np.float64).reshape(-1, terms)

    def speak_probs(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities of SPEAK, shape (n,), of unscaled features (n, F); time grows with the updates."""
        start = np.full(len(features), self.settings.default_speak)
        if not self._fits:
            return start
        differences = self.coefficients @ _basis(scale_features(features), self.settings.basis).T
        if self.settings.play == "greedy":
            total = differences.sum(axis=0)
            return np.where(total == 0.0, start, total > 0.0)
        speak, regret_skip, regret_speak = start, np.zeros(len(features)), np.zeros(len(features))
        for difference in differences:
            regret_skip = regret_skip - speak * difference
            regret_speak = regret_speak + (1.0 - speak) * difference
            positive = np.maximum(regret_skip, 0.0) + np.maximum(regret_speak, 0.0)
            matched = np.maximum(regret_speak, 0.0) / np.where(positive > 0.0, positive, 1.0)
            speak = np.where(positive > 0.0, matched, start)
        return speak

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the probability of SPEAK; 1 when SKIP is masked."""
        return float(self.speak_probs(features[None])[0]) if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Fit one batch. An empty batch changes nothing.

        Args:
            values: decisions with ``features``.

        Raises:
            ConfigError: if a decision has no features, or a number is not finite.
        """
        if not values:
            return
        rows = _basis(feature_rows(values), self.settings.basis)
        both, weights = both_values(values), weights_of(values)
        weighted = rows * weights[:, None]
        gram = weighted.T @ rows + self.settings.ridge * np.eye(rows.shape[1])
        fit = np.linalg.solve(gram, weighted.T @ (both[:, 1] - both[:, 0]))
        self._fits.append(fit.astype(np.float64))

    def state(self) -> State:
        """Return all that was learned, as arrays: ``load_state`` goes on from it."""
        return {"fits": self.coefficients}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` of an object with the same settings has returned.

        Raises:
            CheckpointError: if it does not fit; then nothing has changed.
        """
        check_state(state, self.state(), grows=("fits",))
        self._fits = list(state["fits"].copy())


def _basis(rows: NDArray[np.floating[Any]], basis: str) -> NDArray[np.float64]:
    """Return the terms, shape (n, P)."""
    terms = np.concatenate([np.ones((len(rows), 1)), rows], axis=1).astype(np.float64)
    if basis == "linear":
        return terms
    first, second = np.triu_indices(terms.shape[1])
    return np.asarray(terms[:, first] * terms[:, second])
