"""PPO in one file, in the style of CleanRL: torch, the parallel view, one policy for all seats.

    python examples/learners/cleanrl_ppo.py --task simulated:default --seed 0

A round is one step in every environment. Seats that do not act have the mask [1, 0]: they give the value function a
baseline for the rewards that arrive between turns, and the policy loss nothing, since their ratio is always 1.
"""

from __future__ import annotations

import numpy as np
import torch
from comparison import GAME, Policy, make_policy, run
from torch import nn

import tracer_env
from tracer_env.wrappers import control_view

ENVS, ROUNDS, EPOCHS, MINIBATCHES = 16, 20, 4, 4
GAMMA, LAMBDA, CLIP, ENTROPY, LEARNING_RATE = 1.0, 0.95, 0.2, 0.01, 2.5e-3


class Agent(nn.Module):
    """Actor and critic over the scaled features of one seat."""

    def __init__(self, num_features: int) -> None:
        """Make both networks."""
        super().__init__()
        self.actor, self.critic = self._mlp(num_features, 2), self._mlp(num_features, 1)

    @staticmethod
    def _mlp(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))

    def controls(self, features: torch.Tensor, mask: torch.Tensor) -> torch.distributions.Categorical:
        """Return the distribution over SKIP and SPEAK; what is masked has probability 0."""
        return torch.distributions.Categorical(logits=self.actor(features).masked_fill(~mask, -1e9))


def train(task: str, seed: int, steps: int) -> Policy:
    """Train for ``steps`` rounds, summed over all environments."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    envs = [control_view(tracer_env.parallel_env(task=task, **GAME)) for _ in range(ENVS)]
    seats = envs[0].possible_agents
    num_features = envs[0].observation_space(seats[0])["observation"].shape[0]
    agent = Agent(num_features)
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    features = torch.zeros(ROUNDS + 1, ENVS, len(seats), num_features)
    masks = torch.zeros(ROUNDS + 1, ENVS, len(seats), 2, dtype=torch.bool)
    controls, logprobs, rewards = (torch.zeros(ROUNDS, ENVS, len(seats)) for _ in range(3))
    ended = torch.zeros(ROUNDS, ENVS, 1)

    def look(at: int, env: int, observations: dict[str, dict[str, np.ndarray]]) -> None:
        for k, seat in enumerate(seats):
            features[at, env, k] = torch.from_numpy(observations[seat]["observation"])
            masks[at, env, k] = torch.from_numpy(observations[seat]["action_mask"])

    for k, env in enumerate(envs):
        look(ROUNDS, k, env.reset(seed=seed * ENVS + k)[0])
    updates = max(steps // (ENVS * ROUNDS), 1)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1.0 - update / updates)
        features[0], masks[0] = features[ROUNDS].clone(), masks[ROUNDS].clone()
        for t in range(ROUNDS):
            with torch.no_grad():
                chosen = agent.controls(features[t], masks[t])
                controls[t] = chosen.sample()
                logprobs[t] = chosen.log_prob(controls[t])
            for k, env in enumerate(envs):
                played = {seat: int(c) for seat, c in zip(seats, controls[t, k], strict=True)}
                observations, paid, *_ = env.step(played)
                rewards[t, k] = torch.tensor([paid[seat] for seat in seats])
                ended[t, k] = float(not env.agents)
                look(t + 1, k, observations if env.agents else env.reset()[0])

        with torch.no_grad():  # generalised advantage estimation
            values = agent.critic(features).squeeze(-1)
            advantages, last = torch.zeros_like(rewards), torch.zeros(ENVS, len(seats))
            for t in reversed(range(ROUNDS)):
                goes_on = 1.0 - ended[t]
                last = rewards[t] + goes_on * GAMMA * (values[t + 1] + LAMBDA * last) - values[t]
                advantages[t] = last
            returns = advantages + values[:-1]

        acts = masks[:-1].all(-1).flatten()  # only free decisions teach the actor
        flat = [x.flatten(0, 2) for x in (features[:-1], masks[:-1], controls, logprobs, advantages, returns)]
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(acts)).chunk(MINIBATCHES):
                f, m, c, old, advantage, target = (x[batch] for x in flat)
                free = acts[batch]
                now = agent.controls(f[free], m[free])
                ratio = (now.log_prob(c[free]) - old[free]).exp()
                a = (advantage[free] - advantage[free].mean()) / (advantage[free].std() + 1e-8)
                policy_loss = -torch.min(ratio * a, ratio.clamp(1 - CLIP, 1 + CLIP) * a).mean()
                value_loss = 0.5 * (agent.critic(f).squeeze(-1) - target).pow(2).mean()
                loss = policy_loss + 0.5 * value_loss - ENTROPY * now.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()

    @torch.no_grad()
    def speak_prob(features: np.ndarray) -> float:
        return agent.actor(torch.from_numpy(features)).softmax(-1)[1].item()

    return make_policy(speak_prob)


if __name__ == "__main__":
    run(train, steps=20_000)
