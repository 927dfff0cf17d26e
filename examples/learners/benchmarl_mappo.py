"""BenchMARL: MAPPO with a policy for each role and a critic on the team's state.

    make test-benchmarl    # makes .venv-benchmarl: BenchMARL's pins conflict with the rest
    .venv-benchmarl/bin/python examples/learners/benchmarl_mappo.py --task simulated:default --seed 0

BenchMARL wants plain observations, masks in the infos, and ``state()`` for the critic.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarl.algorithms import MappoConfig
from benchmarl.environments.pettingzoo.common import PettingZooClass
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from comparison import GAME, Policy, run
from tensordict import TensorDict
from torchrl.envs import EnvBase, PettingZooWrapper

import tracer_env
from tracer_env.wrappers import control_view, scale_features

FRAMES, EPOCHS, LEARNING_RATE = 250, 8, 3e-3


class ControlTask(PettingZooClass):
    """BenchMARL's PettingZoo task, made from a control view."""

    def get_env_fun(
        self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any
    ) -> Callable[[], EnvBase]:
        """Return a function that makes one environment."""
        task = self.config["task"]
        return lambda: PettingZooWrapper(
            control_view(tracer_env.parallel_env(task=task, **GAME), mask="info"),
            return_state=True, categorical_actions=True, seed=seed, device=device,
        )  # fmt: skip

    def supports_continuous_actions(self) -> bool:
        """There are only two controls."""
        return False

    def supports_discrete_actions(self) -> bool:
        """SKIP and SPEAK."""
        return True

    def has_state(self) -> bool:
        """The critic sees all seats' features."""
        return True

    def has_render(self, env: EnvBase) -> bool:
        """There are no pixels."""
        return False

    def max_steps(self, env: EnvBase) -> int:
        """Return the longest episode."""
        return 100


def train(task: str, seed: int, steps: int) -> Policy:
    """Train the policies of both roles for ``steps`` rounds."""
    torch.set_num_threads(1)
    config = ExperimentConfig.get_from_yaml()
    config.gamma, config.lr, config.max_n_frames = 1.0, LEARNING_RATE, max(steps, FRAMES)
    config.on_policy_collected_frames_per_batch, config.on_policy_n_envs_per_worker = FRAMES, 1
    config.on_policy_n_minibatch_iters, config.on_policy_minibatch_size = EPOCHS, FRAMES // 2
    config.evaluation, config.render, config.create_json, config.loggers = False, False, False, []
    model = MlpConfig.get_from_yaml()
    model.num_cells = [64, 64]
    algorithm = MappoConfig.get_from_yaml()
    algorithm.entropy_coef, algorithm.lmbda = 0.01, 0.95
    with tempfile.TemporaryDirectory() as folder:
        config.save_folder = folder
        experiment = Experiment(
            ControlTask("CONTROL", {"task": task}), algorithm, model, seed=seed, config=config,
            critic_model_config=model,
        )  # fmt: skip
        experiment.run()
    policies, groups = experiment.group_policies, experiment.group_map

    @torch.no_grad()
    def policy(seat: Any, key: str, features: np.ndarray, mask: tuple[bool, bool]) -> float:
        group = next(name for name, seats in groups.items() if seat.name in seats)
        size = len(groups[group])
        seen = {"observation": torch.from_numpy(scale_features(features)).expand(size, -1)}
        seen["action_mask"] = torch.tensor(mask).expand(size, -1)
        speak_prob = policies[group].get_dist(TensorDict({group: seen})).probs[..., 1]
        return speak_prob[groups[group].index(seat.name)].item()

    return policy


if __name__ == "__main__":
    run(train, steps=8_000)
