"""RLlib: PPO with one masked module for all seats, through RLlib's wrapper of PettingZoo's parallel face.

    make test-rllib    # makes .venv-rllib: RLlib's pins conflict with the rest
    .venv-rllib/bin/python examples/learners/rllib_ppo.py --task simulated:default --seed 0

RLlib's own action-masking example wants another key for the observation; a module of one's own is shorter.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import ray
import torch
from comparison import GAME, Policy, make_policy, run
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env
from torch import nn

import tracer_env
from tracer_env.wrappers import control_view

ENVS, ROUNDS, EPOCHS, LEARNING_RATE = 8, 640, 8, 3e-3


class MaskedModule(TorchRLModule, ValueFunctionAPI):
    """Actor and critic over ``observation``; what ``action_mask`` forbids has probability 0."""

    def setup(self) -> None:
        """Make the networks; RLlib has set the spaces."""
        num_features = self.observation_space["observation"].shape[0]
        self.actor, self.critic = self._mlp(num_features, 2), self._mlp(num_features, 1)

    @staticmethod
    def _mlp(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        seen = batch[Columns.OBS]
        logits = self.actor(seen["observation"]).masked_fill(seen["action_mask"] == 0, -1e9)
        return {Columns.ACTION_DIST_INPUTS: logits}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Return values, shape (B,)."""
        return self.critic(batch[Columns.OBS]["observation"]).squeeze(-1)


def train(task: str, seed: int, steps: int) -> Policy:
    """Train all seats with one policy for ``steps`` rounds, summed over all environments."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    numbers = itertools.count(seed * 1000)

    def make_env(config: Any) -> ParallelPettingZooEnv:
        view = control_view(tracer_env.parallel_env(task=task, **GAME))
        view.reset(seed=next(numbers))  # later resets go on with this seed
        return ParallelPettingZooEnv(view)

    ray.init(num_cpus=1, include_dashboard=False)
    register_env("control", make_env)
    config = (
        PPOConfig()
        .environment("control", disable_env_checking=True)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS, batch_mode="complete_episodes")
        .multi_agent(policies={"team"}, policy_mapping_fn=lambda *args, **kwargs: "team")
        .rl_module(rl_module_spec=RLModuleSpec(module_class=MaskedModule))
        .training(
            train_batch_size_per_learner=ROUNDS, minibatch_size=320, num_epochs=EPOCHS, lr=LEARNING_RATE, gamma=1.0,
            lambda_=0.95, entropy_coeff=0.01, vf_loss_coeff=0.5, grad_clip=0.5, use_kl_loss=False, clip_param=0.2,
        )
    )  # fmt: skip
    algorithm = config.build_algo()
    for _ in range(max(steps // ROUNDS, 1)):
        algorithm.train()
    module = algorithm.get_module("team")
    algorithm.stop()
    ray.shutdown()

    @torch.no_grad()
    def speak_prob(features: np.ndarray) -> float:
        return module.actor(torch.from_numpy(features)).softmax(-1)[1].item()

    return make_policy(speak_prob)


if __name__ == "__main__":
    run(train, steps=10_000)
