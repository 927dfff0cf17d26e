"""SB3-Contrib: MaskablePPO decides for the proposer, and the reviewers always SPEAK.

    python examples/learners/sb3_maskable_ppo.py --task simulated:default --seed 0

MaskablePPO asks the environment for ``action_masks()``; the single seat's view answers.
"""

from __future__ import annotations

import numpy as np
import torch
from comparison import GAME, Policy, make_policy, run
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_util import make_vec_env

import tracer_env
from tracer_env.types import Role
from tracer_env.wrappers import control_view

ENVS, LEARNING_RATE = 8, 3e-3


def train(task: str, seed: int, steps: int) -> Policy:
    """Train proposer_0 for ``steps`` turns of its own."""
    torch.set_num_threads(1)
    envs = make_vec_env(
        lambda: control_view(tracer_env.env(task=task, **GAME), "proposer_0", mask="info", others=1.0), ENVS, seed=seed
    )
    model = MaskablePPO(
        "MlpPolicy", envs, n_steps=128, batch_size=256, n_epochs=8, gamma=1.0, ent_coef=0.005,
        learning_rate=lambda left: LEARNING_RATE * left, seed=seed, device="cpu",
    )  # fmt: skip
    model.learn(steps)

    @torch.no_grad()
    def speak_prob(features: np.ndarray) -> float:
        observation, _ = model.policy.obs_to_tensor(features)
        return float(model.policy.get_distribution(observation).distribution.probs[0, 1])

    return make_policy(speak_prob, Role.PROPOSER)


if __name__ == "__main__":
    run(train, steps=12_000)
