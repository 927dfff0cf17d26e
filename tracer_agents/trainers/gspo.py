"""Generation credit: groups of candidates with rewards in, better policies out. The only file that imports TRL.

Each update is one short run of a real TRL ``GRPOTrainer`` with GSPO's settings on the adapter of one policy: its
rollout hook hands over our token ids and its reward function our rewards, so nothing is decoded or tokenised again.
What must outlive an update, the optimiser's state, is ours; everything else of TRL is built anew and thrown away,
which keeps an update a function of (weights, optimiser state, groups, seed) and makes resuming exact.

Several optimiser steps per batch (minibatches times iterations) make the ratio move; TRL then scores the behaviour
log-probabilities itself, before the first step, and they must agree with what the sampler recorded.

Shapes: ``G`` groups, ``K`` candidates of a group, ``B`` sequences, ``L`` tokens.

Source: arXiv 2507.18071 for the objective; TRL 1.16 for its implementation (``losses.py`` states it in a few lines).
"""

from __future__ import annotations

import copy
import json
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from tracer_agents.config import GspoConfig
from tracer_agents.errors import CheckpointError, CollapseError, GeneratorError
from tracer_agents.generators.policies import (
    active_policy,
    base_of,
    check_same_tensors,
    policy_parameters,
    torch_seeded,
)
from tracer_agents.interfaces import Candidate, Group
from tracer_agents.losses import ratio_stats, sequence_ratio
from tracer_env.errors import ConfigError, RewardError, UnknownNameError

__all__ = ["GspoLearner"]

_OPTIMIZER_FILE = "optimizer.safetensors"
_INDEX_FILE = "optimizer.json"
_TOUCHED_SETTINGS = ("eos_token_id", "bos_token_id", "pad_token_id", "use_cache")


class GspoLearner:
    """Trains the policies of one base model, one policy per update.

    Which groups are trained on: those with spread. More than ``groups_per_update`` of them: a random choice of that
    many, the others are counted as unused. Fewer: all of them, with the loss scaled by (their number /
    ``groups_per_update``), which is what filling the batch with groups of zero advantage would give, without computing
    them. None: no step is taken.
    """

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, policies: Sequence[str], config: GspoConfig
    ) -> None:
        """Make one optimiser per policy.

        Args:
            model: with an adapter for each policy (``add_policies``); shared with the generator.
            tokenizer: the model's; TRL needs its pad id.
            policies: the policies that may be updated.
            config: settings.

        Raises:
            UnknownNameError: if the model lacks a policy.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self._parameters = {policy: policy_parameters(model, policy) for policy in policies}
        self._optimizers = {
            policy: torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
            for policy, parameters in self._parameters.items()
        }

    def update(self, policy: str, groups: Sequence[Group], *, seed: int) -> dict[str, float]:
        """Improve one policy from one batch of groups that it sampled under its current weights.

        Args:
            policy: whose adapter is trained; every other weight stays bit-equal.
            groups: of this policy; each with K candidates.
            seed: of the choice and the order of sequences; the global random state is untouched.

        Returns:
            ``loss`` (mean over steps), ``reward_mean`` and ``reward_std`` (all groups), ``groups``,
            ``groups_with_spread``, ``groups_unused`` (with spread but beyond the plan), ``steps``, ``grad_norm`` (mean,
            before clipping), ``logprob_gap_max``, ``seconds``; of the last step ``ratio_mean``, ``ratio_min``,
            ``ratio_max`` and ``clipped_share``. Without a step, loss, gradient, gap and clipped share are 0 and the
            ratios 1.

        Raises:
            UnknownNameError: if the policy is not one of this learner's.
            ConfigError: if a group belongs to another policy or has the wrong shape.
            RewardError: if a reward is not finite.
            GeneratorError: if the sampler's log-probabilities are not the model's; no step is taken then.
            CollapseError: if loss or gradient is not finite.
        """
        started = time.perf_counter()
        self._check(policy, groups)
        rng = np.random.default_rng(seed)
        spread = [group for group in groups if group.has_spread]
        chosen = _choose(spread, self.config.groups_per_update, rng)
        rewards = np.concatenate([group.rewards for group in groups]) if groups else np.zeros(1)
        stats = {
            "loss": 0.0,
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "groups": float(len(groups)),
            "groups_with_spread": float(len(spread)),
            "groups_unused": float(len(spread) - len(chosen)),
            "ratio_mean": 1.0,
            "ratio_min": 1.0,
            "ratio_max": 1.0,
            "clipped_share": 0.0,
            "grad_norm": 0.0,
            "logprob_gap_max": 0.0,
            "steps": 0.0,
        }
        if chosen:
            stats |= self._train(policy, chosen, seed=int(rng.integers(2**31)))
        return stats | {"seconds": time.perf_counter() - started}

    def save(self, folder: str | Path) -> None:
        """Write the optimisers' state as ``<folder>/<policy>/optimizer.safetensors`` and ``<folder>/optimizer.json``.

        Beside the adapters of ``save_policies``, which are not written here, it is all that exact resuming needs.
        """
        root = Path(folder)
        for policy in self._optimizers:
            (root / policy).mkdir(parents=True, exist_ok=True)
            save_file(self._optimizer_state(policy), root / policy / _OPTIMIZER_FILE)
        index = {"format": 1, "policies": list(self._optimizers)}
        (root / _INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: str | Path) -> None:
        """Restore what ``save`` wrote; the adapters must have been restored by ``load_policies``.

        Raises:
            CheckpointError: if a file is missing or damaged, or belongs to other policies or another model.
        """
        root = Path(folder)
        try:
            index = json.loads((root / _INDEX_FILE).read_text(encoding="utf-8"))
            states = {policy: load_file(root / policy / _OPTIMIZER_FILE) for policy in self._optimizers}
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"cannot read the optimiser state in {str(root)!r}: {error}") from error
        if index["policies"] != list(self._optimizers):
            raise CheckpointError(
                f"{str(root / _INDEX_FILE)!r} is of the policies {', '.join(index['policies'])}, this learner has "
                f"{', '.join(self._optimizers)}"
            )
        for policy, state in states.items():
            self._restore_optimizer(policy, state, root / policy / _OPTIMIZER_FILE)

    # One update.

    def _check(self, policy: str, groups: Sequence[Group]) -> None:
        if policy not in self._optimizers:
            raise UnknownNameError("policy", policy, self._optimizers)
        expected = self.config.num_candidates
        for group in groups:
            if group.policy != policy:
                raise ConfigError(f"a group of policy {group.policy!r} was given to the update of {policy!r}")
            if len(group.candidates) != expected or group.rewards.shape != (expected,):
                raise ConfigError(
                    f"a group must have num_candidates = {expected} candidates and rewards, got "
                    f"{len(group.candidates)} and shape {group.rewards.shape}"
                )
            if not np.isfinite(group.rewards).all():
                raise RewardError(f"policy {policy!r} was given the rewards {group.rewards}; group: {dict(group.meta)}")
            for candidate in group.candidates:
                if not 0 < len(candidate.token_ids) == len(candidate.logprobs) or not len(candidate.prompt_ids):
                    raise ConfigError(
                        f"a candidate needs a prompt, tokens and one log-probability per token, got "
                        f"{len(candidate.prompt_ids)}, {len(candidate.token_ids)} and {len(candidate.logprobs)}"
                    )

    def _train(self, policy: str, groups: list[Group], *, seed: int) -> dict[str, float]:
        batch = _Batch.of(groups, self.config)
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(_quiet())
            stack.enter_context(_own_randomness(seed, self.model.device))
            stack.enter_context(active_policy(self.model, policy))
            stack.enter_context(_restored(self.model))
            trainer = _Trainer(
                model=self.model,
                reward_funcs=_given_rewards,
                args=self._arguments(folder, num_sequences=len(batch.candidates), seed=seed),
                train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(batch.num_groups)]}),
                processing_class=self.tokenizer,
                optimizers=(self._optimizers[policy], _constant(self._optimizers[policy])),
                rollout_func=batch.rollout,
            )
            trainer.prepare(loss_scale=batch.loss_scale, tolerance=self._tolerance())
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            return trainer.summary()

    def _tolerance(self) -> float:
        if self.config.logprob_tolerance > 0:
            return self.config.logprob_tolerance
        return 1e-2 if base_of(self.model).dtype == torch.float32 else 0.5

    def _arguments(self, folder: str, *, num_sequences: int, seed: int) -> GRPOConfig:
        config = self.config
        return GRPOConfig(
            # GSPO.
            importance_sampling_level="sequence",
            loss_type="grpo",
            scale_rewards="group",
            beta=0.0,
            epsilon=config.epsilon_low,
            epsilon_high=config.epsilon_high,
            temperature=1.0,  # the candidates' own: training samples from the model's distribution
            num_generations=config.num_candidates,
            num_iterations=config.num_iterations,
            steps_per_generation=config.sequences_multiple,
            gradient_accumulation_steps=config.gradient_accumulation,
            per_device_train_batch_size=num_sequences // config.sequences_multiple,
            max_steps=config.steps_per_update,
            max_grad_norm=config.max_grad_norm,
            gradient_checkpointing=config.gradient_checkpointing,
            disable_dropout=True,
            shuffle_dataset=False,
            seed=seed,
            # No mixed precision: the sampler runs without it too, and the two must agree.
            bf16=False,
            use_cpu=self.model.device.type == "cpu",
            # Silence.
            output_dir=folder,
            save_strategy="no",
            report_to=[],
            push_to_hub=False,
            disable_tqdm=True,
            logging_strategy="steps",
            logging_steps=1,
            dataloader_pin_memory=False,
        )

    # The optimisers' state.

    def _optimizer_state(self, policy: str) -> dict[str, Tensor]:
        """Return ``<parameter>/<moment>`` of every parameter that has been stepped; nothing before the first step."""
        state = self._optimizers[policy].state
        return {
            f"{name}/{key}": value.detach().cpu().contiguous()
            for name, parameter in self._parameters[policy].items()
            for key, value in state.get(parameter, {}).items()
        }

    def _restore_optimizer(self, policy: str, tensors: dict[str, Tensor], file: Path) -> None:
        parameters = self._parameters[policy]
        shapes = {"exp_avg": None, "exp_avg_sq": None, "step": torch.zeros(())}
        expected = {
            f"{name}/{key}": parameter.detach().cpu() if like is None else like
            for name, parameter in parameters.items()
            for key, like in shapes.items()
        }
        check_same_tensors(file, tensors, expected if tensors else {})
        optimizer = self._optimizers[policy]
        state = {i: {key: tensors[f"{name}/{key}"] for key in shapes} for i, name in enumerate(parameters) if tensors}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _choose(spread: list[Group], planned: int, rng: np.random.Generator) -> list[Group]:
    """Return at most ``planned`` of the groups. At random, since the first ones may all be of early rounds."""
    if len(spread) <= planned:
        return spread
    return [spread[i] for i in sorted(rng.choice(len(spread), size=planned, replace=False))]


@dataclass(frozen=True)
class _Batch:
    """What one update trains on, in the order TRL asks for it: K adjacent candidates per group.

    Attributes:
        candidates: B sequences.
        rewards: one per sequence, centred in each group.
        num_groups: G, fillers included.
        loss_scale: makes the loss a mean over the planned number of sequences.
    """

    candidates: list[Candidate]
    rewards: list[float]
    num_groups: int
    loss_scale: float

    @classmethod
    def of(cls, groups: list[Group], config: GspoConfig) -> _Batch:
        # Centred here, in float64: TRL subtracts a float32 mean, whose rounding error it then divides by
        # (std + 1e-4) where the spread is small. The advantage does not depend on the shift.
        candidates = [candidate for group in groups for candidate in group.candidates]
        rewards = [float(r) for group in groups for r in group.rewards - group.rewards.mean()]
        num_groups = len(groups)
        # Minibatches are equally large. What is missing to that is filled with sequences of zero advantage.
        filler = min(groups, key=lambda g: sum(len(c.token_ids) for c in g.candidates))
        while len(candidates) % config.sequences_multiple:
            candidates += filler.candidates
            rewards += [0.0] * config.num_candidates
            num_groups += 1
        planned = config.groups_per_update * config.num_candidates
        return cls(candidates, rewards, num_groups, len(candidates) / planned)

    def rollout(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """Hand over the candidates (TRL's ``rollout_func``)."""
        assert len(prompts) == len(self.candidates)
        return {
            "prompt_ids": [c.prompt_ids.tolist() for c in self.candidates],
            "completion_ids": [c.token_ids.tolist() for c in self.candidates],
            "logprobs": [c.logprobs.tolist() for c in self.candidates],
            "given_reward": self.rewards,
        }


def _given_rewards(given_reward: list[float], **_: Any) -> list[float]:
    """Return the rewards that came with the rollout (TRL's reward function; TRL passes it much else)."""
    return given_reward


class _Trainer(GRPOTrainer):  # type: ignore[misc]  # trl is not followed by mypy
    """TRL's trainer, watched: it computes the same, records the ratios and stops on what must not be trained on."""

    def prepare(self, *, loss_scale: float, tolerance: float) -> None:
        """Set what belongs to this library.

        Args:
            loss_scale: factor on the loss, see ``_Batch``.
            tolerance: see ``GspoConfig.logprob_tolerance``.
        """
        self._loss_scale = loss_scale
        self._tolerance = tolerance
        self._gap_max = 0.0
        self._scored: Tensor | None = None
        self._losses: list[float] = []
        self._ratios: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def summary(self) -> dict[str, float]:
        """Return the update's statistics, see ``GspoLearner.update``."""
        norms = [float(entry["grad_norm"]) for entry in self.state.log_history if "grad_norm" in entry]
        if not np.isfinite(norms).all():
            raise CollapseError(
                f"the gradient norms of this update are {norms}: the policy's weights are no longer usable."
            )
        ratio, advantages = (torch.cat(parts) for parts in zip(*self._ratios[max(self._ratios)], strict=True))
        real = advantages != 0
        if not real.any():  # a last minibatch of fillers alone
            real = torch.ones_like(real)
        return {
            "loss": float(np.mean(self._losses)),
            "grad_norm": float(np.mean(norms)),
            "steps": float(self.state.global_step),
            "logprob_gap_max": self._gap_max,
            **ratio_stats(ratio[real], advantages[real], epsilon_low=self.epsilon_low, epsilon_high=self.epsilon_high),
        }

    def _send_telemetry(self) -> None:
        """Send nothing: a library does not phone home on behalf of its user."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._scored = result[0].detach()
        return result

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        # Absent when one step uses the whole batch: TRL then takes the ratio to be 1.
        if "old_per_token_logps" in output:
            self._check_gap(output["old_per_token_logps"], output)
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        scored = self._scored
        assert scored is not None
        if "old_per_token_logps" not in inputs:
            self._check_gap(scored, inputs)
        if not torch.isfinite(loss):
            raise CollapseError(f"the loss is {loss.item()}: the policy has diverged.")
        ratio = sequence_ratio(scored, inputs.get("old_per_token_logps", scored), inputs["completion_mask"])
        self._ratios.setdefault(self.state.global_step, []).append((ratio, inputs["advantages"]))
        scaled = loss * self._loss_scale
        self._losses.append(scaled.item() * self.args.gradient_accumulation_steps)
        return scaled

    def _check_gap(self, scored: Tensor, inputs: dict[str, Any]) -> None:
        """Compare the trainer's log-probabilities under the behaviour weights with the sampler's, shape (B, L)."""
        sampled = inputs["sampling_per_token_logps"]
        # NaN counts as the largest gap; max() of Python would pass over it.
        gap = torch.where(inputs["completion_mask"].bool(), (scored - sampled).abs(), 0.0).nan_to_num(nan=torch.inf)
        worst = int(gap.argmax())
        self._gap_max = max(self._gap_max, gap.flatten()[worst].item())
        if self._gap_max > self._tolerance:
            raise GeneratorError(
                f"the sampler gave a token the log-probability {sampled.flatten()[worst].item():.4f}, the trainer "
                f"gives it {scored.flatten()[worst].item():.4f} (tolerance {self._tolerance}): the candidates were "
                "not sampled from these weights at this temperature (stale adapter, top-p or top-k, another "
                "temperature or precision). No step was taken"
            )


def _constant(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Keep TRL's seeding (it sets all three global states) inside the update."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch_seeded(seed, device):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _restored(model: PeftModel) -> Iterator[None]:
    """Undo what TRL leaves on the model: train flags, a patched forward, checkpointing hooks, special token ids."""
    base = base_of(model)
    training = {module: module.training for module in model.modules()}
    patched = {module: module.__dict__.get("forward") for module in (model, base)}
    settings, config_ids = base.generation_config, {key: getattr(base.config, key, None) for key in _TOUCHED_SETTINGS}
    base.generation_config = copy.deepcopy(settings)
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for module, forward in patched.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
        base.generation_config = settings
        for key, value in config_ids.items():
            setattr(base.config, key, value)
        if base.is_gradient_checkpointing:
            base.gradient_checkpointing_disable()
            base.disable_input_require_grads()
        model.zero_grad(set_to_none=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notices of a training run to themselves; errors still show."""
    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # rollout_func is experimental: known, and the reason why TRL is pinned to one minor version.
            warnings.filterwarnings("ignore", message=".*rollout_func.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
