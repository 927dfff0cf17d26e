"""TorchRL: multi-agent PPO with a central critic, through TorchRL's own PettingZoo wrapper.

    python examples/learners/torchrl_mappo.py --task simulated:default --seed 0

The wrapper takes the mask out of the observations and puts it at ("team", "action_mask").
"""

from __future__ import annotations

import numpy as np
import torch
from comparison import GAME, Policy, make_policy, run
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs.libs.pettingzoo import PettingZooWrapper
from torchrl.modules import MaskedCategorical, MultiAgentMLP, ProbabilisticActor
from torchrl.objectives import ClipPPOLoss, ValueEstimators

import tracer_env
from tracer_env.wrappers import control_view

FRAMES, EPOCHS, MINIBATCHES, LEARNING_RATE = 250, 8, 2, 3e-3


def train(task: str, seed: int, steps: int) -> Policy:
    """Train all seats with one policy for ``steps`` rounds."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    view = control_view(tracer_env.parallel_env(task=task, **GAME))
    seats = view.possible_agents
    env = PettingZooWrapper(view, group_map={"team": seats}, use_mask=False, seed=seed)
    num_features = env.observation_spec["team", "observation", "observation"].shape[-1]
    observation = ("team", "observation", "observation")

    def network(outputs: int, *, central: bool) -> MultiAgentMLP:
        return MultiAgentMLP(
            num_features, outputs, len(seats), centralised=central, share_params=True, depth=2, num_cells=64,
            activation_class=torch.nn.Tanh,
        )  # fmt: skip

    actor = ProbabilisticActor(
        TensorDictModule(network(2, central=False), in_keys=[observation], out_keys=[("team", "logits")]),
        in_keys={"logits": ("team", "logits"), "mask": ("team", "action_mask")},
        out_keys=[("team", "action")],
        distribution_class=MaskedCategorical,
        return_log_prob=True,
        log_prob_key=("team", "log_prob"),
    )
    critic = TensorDictModule(network(1, central=True), in_keys=[observation], out_keys=[("team", "state_value")])
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, critic_coeff=0.5, normalize_advantage=True)
    loss.set_keys(
        **{key: ("team", key) for key in ("action", "advantage", "value_target", "reward", "done", "terminated")},
        value=("team", "state_value"), sample_log_prob=("team", "log_prob"),
    )  # fmt: skip
    loss.make_value_estimator(ValueEstimators.GAE, gamma=1.0, lmbda=0.95)
    optimizer = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE)
    collector = Collector(env, actor, frames_per_batch=FRAMES, total_frames=max(steps, FRAMES))
    for batch in collector:
        with torch.no_grad():
            loss.value_estimator(
                batch, params=loss.critic_network_params, target_params=loss.target_critic_network_params
            )
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(batch)).chunk(MINIBATCHES):
                losses = loss(batch[rows])
                optimizer.zero_grad()
                sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        optimizer.param_groups[0]["lr"] -= LEARNING_RATE * FRAMES / max(steps, FRAMES)
    collector.shutdown()
    logits = actor.get_submodule("0").module  # one network for all seats: feed it one seat's features in every place

    @torch.no_grad()
    def speak_prob(features: np.ndarray) -> float:
        everywhere = torch.from_numpy(features).expand(len(seats), -1)
        return logits(everywhere)[0].softmax(-1)[1].item()

    return make_policy(speak_prob)


if __name__ == "__main__":
    run(train, steps=5_000)
