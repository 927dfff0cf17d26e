"""Tianshou: one PPO for each seat, through Tianshou's wrapper of PettingZoo's turn-by-turn face.

    python examples/learners/tianshou_ppo.py --task simulated:default --seed 0

Tianshou 2.0 credits a turn with the pay of that turn alone and sees an end only in the turn that ended the episode.
``SeatPPO`` mends both: a turn is credited with all that its seat is paid until its next turn.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from comparison import GAME, Policy, run
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.multiagent.marl import MultiAgentOnPolicyAlgorithm
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, PettingZooEnv
from tianshou.trainer import OnPolicyTrainerParams
from torch import nn

import tracer_env
from tracer_env.wrappers import control_view, scale_features

ENVS, EPISODES, EPOCHS, LEARNING_RATE = 8, 96, 10, 3e-3


class Masked(nn.Module):
    """A network that reads Tianshou's observation (``obs``, ``mask``) and gives what is masked no chance."""

    def __init__(self, num_features: int, outputs: int) -> None:
        """Make the network."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_features, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
        )

    def forward(self, obs: Batch, state: Any = None, info: Any = None) -> tuple[torch.Tensor, Any]:
        """Return logits, shape (B, 2), and the state, which there is none of."""
        logits = self.net(torch.as_tensor(obs.obs))
        return logits.masked_fill(~torch.as_tensor(np.asarray(obs.mask, dtype=bool)), -1e9), state


class Critic(Masked):
    """The value of an observation; the mask does not matter."""

    def forward(self, obs: Batch, state: Any = None, info: Any = None) -> torch.Tensor:
        """Return values, shape (B, 1)."""
        return self.net(torch.as_tensor(obs.obs))


class SeatPPO(PPO):
    """PPO with the credit of a seat that does not act in every turn. Needs whole episodes."""

    def _add_returns_and_advantages(self, batch: Batch, buffer: VectorReplayBuffer, indices: np.ndarray) -> Batch:
        with torch.no_grad():
            batch.v_s = self.critic(batch.obs).flatten()
        values, advantages = batch.v_s.numpy(), np.zeros(len(indices), dtype=np.float32)
        own = {int(row): k for k, row in enumerate(indices)}
        paid = advantage = next_value = 0.0
        for row in reversed(buffer.sample_indices(0)):  # all turns of all seats, backwards in time
            if buffer.done[row]:
                paid = advantage = next_value = 0.0
            paid += float(buffer.rew[row])  # this seat's column
            if (k := own.get(int(row))) is not None:
                advantage = paid + self.gamma * next_value - values[k] + self.gamma * self.gae_lambda * advantage
                advantages[k], next_value, paid = advantage, values[k], 0.0
        batch.adv = torch.from_numpy(advantages)
        batch.returns = batch.adv + batch.v_s
        return batch


def train(task: str, seed: int, steps: int) -> Policy:
    """Train every seat for ``steps`` turns."""
    logging.getLogger("tianshou").setLevel(logging.ERROR)  # it wonders at returns of two seats
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    envs = DummyVectorEnv([lambda: PettingZooEnv(control_view(tracer_env.env(task=task, **GAME)))] * ENVS)
    envs.seed(seed)
    view = PettingZooEnv(control_view(tracer_env.env(task=task, **GAME)))
    num_features = view.observation_space["observation"].shape[0]
    seats = {
        seat: SeatPPO(
            policy=ProbabilisticActorPolicy(
                actor=Masked(num_features, 2), action_space=view.action_space, action_scaling=False,
                action_bound_method=None, dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
            ),
            critic=Critic(num_features, 1), optim=AdamOptimizerFactory(lr=LEARNING_RATE),
            gamma=1.0, gae_lambda=0.95, ent_coef=0.01, max_grad_norm=0.5,
        )
        for seat in view.agents
    }  # fmt: skip
    team = MultiAgentOnPolicyAlgorithm(algorithms=list(seats.values()), env=view)
    team.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector(team, envs, VectorReplayBuffer(EPISODES * ENVS * 8, ENVS)),
            max_epochs=1, epoch_num_steps=steps, batch_size=128, update_step_num_repetitions=EPOCHS,
            collection_step_num_env_steps=None, collection_step_num_episodes=EPISODES,
            test_collector=None, verbose=False, show_progress=False,
        )
    )  # fmt: skip

    @torch.no_grad()
    def policy(seat: Any, key: str, features: np.ndarray, mask: tuple[bool, bool]) -> float:
        obs = Batch(obs=scale_features(features)[None], mask=np.array([mask]))
        return seats[seat.name].policy.actor(obs)[0].softmax(-1)[0, 1].item()

    return policy


if __name__ == "__main__":
    run(train, steps=8_000)
