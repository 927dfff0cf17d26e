"""The settings of a training run: the only source for the command line, ``config.json`` and the log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from tracer_agents.controllers.minimisers import MINIMISERS
from tracer_agents.controllers.table import AVERAGINGS
from tracer_env.errors import ConfigError, UnknownNameError

__all__ = ["PRESETS", "SMOKE", "GspoConfig", "TrainConfig", "setting"]


def setting(default: Any, doc: str) -> Any:
    """Declare a field with its one-line documentation (shown by ``--help``)."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class GspoConfig:
    """Settings of the generation-credit layer (method.md, section 5)."""

    num_candidates: int = setting(4, "K: candidates per group, at least 2")
    learning_rate: float = setting(1e-3, "AdamW step size of the adapters, constant")
    epsilon_low: float = setting(0.02, "the sequence ratio is clipped below 1 - this (GSPO's own: 3e-4)")
    epsilon_high: float = setting(0.03, "the sequence ratio is clipped above 1 + this (GSPO's own: 4e-4)")
    groups_per_update: int = setting(32, "planned groups with spread per policy and update; normalises the loss")
    num_minibatches: int = setting(4, "optimiser steps per pass over an update's sequences (GSPO's own: 4)")
    num_iterations: int = setting(1, "passes over an update's sequences")
    gradient_accumulation: int = setting(1, "pieces that a minibatch is computed in, to save memory")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm")
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay")
    lora_r: int = setting(16, "rank of the adapters")
    lora_alpha: int = setting(32, "scale of the adapters: their output is multiplied by alpha / r")
    lora_targets: str = setting("all-linear", "layers that are adapted: all-linear, or names separated by commas")
    gradient_checkpointing: bool = setting(False, "recompute activations: less memory, about a quarter more time")
    logprob_tolerance: float = setting(0.0, "largest sampler-trainer log-probability gap; 0: by precision")

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: naming the setting and what is allowed.
        """
        _at_least(self, num_candidates=2, groups_per_update=1, num_minibatches=1, num_iterations=1, lora_r=1)
        _at_least(self, gradient_accumulation=1, lora_alpha=1, weight_decay=0, logprob_tolerance=0)
        _positive(self, "learning_rate", "epsilon_low", "epsilon_high", "max_grad_norm")
        if self.epsilon_low >= 1:
            raise ConfigError(f"epsilon_low must be below 1, not {self.epsilon_low!r}.")
        if self.num_candidates * self.groups_per_update % self.sequences_multiple:
            raise ConfigError(
                f"num_candidates * groups_per_update ({self.num_candidates} * {self.groups_per_update}) must be a "
                f"multiple of num_minibatches * gradient_accumulation ({self.sequences_multiple})."
            )

    @property
    def sequences_multiple(self) -> int:
        """The number of sequences of an update is a multiple of this."""
        return self.num_minibatches * self.gradient_accumulation

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps per update."""
        return self.num_minibatches * self.num_iterations


@dataclass(frozen=True, kw_only=True)
class TrainConfig(GspoConfig):
    """Settings of a training run."""

    task: str = setting("arithmetic", "task name or path to a JSONL file")
    split: str = setting("train", "questions to train on")
    eval_task: str | None = setting(None, "task to evaluate on; the same task by default")
    eval_split: str = setting("test", "split to evaluate on")
    data_dir: str | None = setting(None, "folder with the task's data (else TRACER_DATA_DIR, else the hub)")
    model: str | None = setting(None, "local model folder or hub id; the shipped model by default")

    proposers: int = setting(1, "number of proposers")
    reviewers: int = setting(1, "number of reviewers")
    rounds: int = setting(5, "rounds per dialogue")
    schedule: str = setting("round_robin", "round_robin, simultaneous or reference")
    on_invalid: str = setting("keep", "what an unparsable proposal does to a valid answer: keep or replace")
    abstraction: str = setting("paper", "information sets: paper, round or history")
    cost_per_call: float = setting(0.0, "cost of an utterance in the team return")
    cost_per_1k_tokens: float = setting(0.2, "cost of a thousand generated tokens in the team return")
    policies: str = setting("seat", "one adapter per seat or per role")

    layers: str = setting("both", "which layers learn: both, controllers or generators")
    estimator: str = setting("rollout", "value of a control: rollout (team return) or local (the paper's)")
    continuations: int = setting(1, "M: how often rollout plays both controls on; values are means over them")
    minimiser: str = setting("regret_matching", f"regret minimiser: {', '.join(MINIMISERS)}")
    averaging: str = setting("usual", "weights of the average strategy: uniform, linear, quadratic, or usual")
    updates: int = setting(6, "alternations of the two layers")
    questions_per_update: int = setting(48, "dialogues per update")
    probe_rate: float = setting(1.0, "share of decisions that are probed")
    refit: str = setting(
        "auto",
        "controllers learned anew with the generators frozen: recording (of the final team, with exact values), live "
        "(from dialogues, with the estimator), none, or auto: recording if its tree is small and of U, else live",
    )
    refit_questions: int = setting(768, "fresh questions of the re-fit, in all")
    refit_updates: int = setting(6, "controller updates of a live re-fit, each with an equal part of the questions")
    eval_questions: int = setting(512, "held-out questions before and after")

    max_new_tokens: int = setting(64, "longest utterance in tokens")
    thinking: bool = setting(False, "let models with a thinking mode think (chat template option enable_thinking)")
    batch_size: int = setting(128, "texts per generation batch; the fastest of 32 to 512 on a CPU")
    seed: int = setting(0, "seed of everything")

    def __post_init__(self) -> None:
        """Check what the game does not check itself.

        Raises:
            ConfigError: naming the setting and what is allowed.
        """
        super().__post_init__()
        _at_least(self, updates=0, questions_per_update=1, refit_updates=0, refit_questions=1, eval_questions=1)
        _at_least(self, max_new_tokens=1, batch_size=1, seed=0, continuations=1)
        if not 0.0 < self.probe_rate <= 1.0:
            raise ConfigError(f"probe_rate must be in (0, 1], not {self.probe_rate!r}.")
        for f in fields(self):
            if getattr(self, f.name) == "":
                raise ConfigError(f"{f.name} must not be empty; leave it out for its default ({f.default}).")
        _one_of("layers", self.layers, ("both", "controllers", "generators"))
        _one_of("policies", self.policies, ("seat", "role"))
        if self.estimator == "exact":
            raise ConfigError(
                "estimator 'exact' needs the complete control tree of every question, which a training run does not "
                "have: record its team (tracer record --run DIR) and fit controllers on that (tracer fit)."
            )
        _one_of("estimator", self.estimator, ("rollout", "local"))
        if self.refit_updates == 1:
            raise ConfigError(
                "refit_updates must be at least 2: a single update plays the uniform strategy only, so that its "
                "average has learned nothing."
            )
        _one_of("refit", self.refit, ("auto", "recording", "live", "none"))
        if self.refit == "recording" and self.estimator != "rollout":
            raise ConfigError(
                f"a re-fit on a recording values controls by the team return, and estimator {self.estimator!r} does "
                "not: use --refit live, or --estimator rollout."
            )
        if self.continuations > 1 and self.estimator != "rollout":
            raise ConfigError(
                f"estimator {self.estimator!r} plays nothing on, so continuations must be 1, not {self.continuations}."
            )
        _one_of("minimiser", self.minimiser, tuple(MINIMISERS))
        _one_of("averaging", self.averaging, ("usual", *AVERAGINGS))

    @property
    def evaluated_task(self) -> str:
        """The task of the held-out questions."""
        return self.task if self.eval_task is None else self.eval_task

    @property
    def trains_controllers(self) -> bool:
        """Whether the controller-regret layer learns."""
        return self.layers in ("both", "controllers")

    @property
    def trains_generators(self) -> bool:
        """Whether the generation-credit layer learns."""
        return self.layers in ("both", "generators")

    def to_json(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return asdict(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
        """Make a configuration from a mapping.

        Args:
            settings: values by field name.
            base: where all other values come from; the defaults by default.

        Raises:
            UnknownNameError: if a key is not a setting; the nearest is named.
            ConfigError: if a value has the wrong type or range.
        """
        known = {f.name: f for f in fields(cls)}
        for key, value in settings.items():
            if key not in known:
                raise UnknownNameError("setting", key, known)
            _check_type(key, value, str(known[key].type))
        return replace(base or cls(), **settings)


_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "str | None": (str, type(None)),
}


def _check_type(name: str, value: Any, annotation: str) -> None:
    if isinstance(value, bool) != (annotation == "bool") or not isinstance(value, _TYPES[annotation]):
        raise ConfigError(f"setting {name!r} must be of type {annotation}, not {value!r}.")


def _at_least(config: Any, **least: int) -> None:
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise ConfigError(f"{name} must be at least {bound}, not {getattr(config, name)!r}.")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ConfigError(f"{name} must be positive and finite, not {getattr(config, name)!r}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnknownNameError(name, value, allowed)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "recommended": {},
    # the paper's choices: one-step values of the role's own reward, no costs, GSPO's own clip range
    "paper": {
        "estimator": "local",
        "cost_per_1k_tokens": 0.0,
        "epsilon_low": 3e-4,
        "epsilon_high": 4e-4,
        "refit_questions": 1152,
    },
}
"""Named sets of settings; the command line's own flags win over them."""

SMOKE: Mapping[str, Any] = {
    "updates": 2,
    "questions_per_update": 8,
    "groups_per_update": 8,
    "num_minibatches": 2,
    "refit_updates": 2,
    "refit_questions": 16,
    "eval_questions": 24,
}
"""Sizes of ``--smoke``: the same path in seconds, for tests; its figures mean nothing."""

assert all(f.default is not MISSING for f in fields(TrainConfig)), "every setting needs a default"
