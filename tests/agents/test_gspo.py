"""Training through a real TRL trainer on a tiny random model: what moves, what does not, and what it adds up to."""

import os
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_generator import EOS, ask, bit_equal, tiny_model, two_policies, weights_of, word_tokenizer, words
from trl import GRPOTrainer

from tracer_agents.config import GspoConfig
from tracer_agents.errors import CheckpointError, CollapseError, GeneratorError
from tracer_agents.generators.policies import active_policy, add_policies, load_policies, lora_config, save_policies
from tracer_agents.generators.transformers import TransformersGenerator
from tracer_agents.interfaces import Group
from tracer_agents.losses import group_advantages, gspo_loss
from tracer_agents.trainers import gspo
from tracer_agents.trainers.gspo import GspoLearner
from tracer_env import Role
from tracer_env.errors import ConfigError, RewardError, UnknownNameError

pytestmark = pytest.mark.usefixtures("one_thread")

TEAM = ("proposer_0", "reviewer_0")
WIDE = {"epsilon_low": 0.2, "epsilon_high": 0.2}


def settings(**changes):
    return GspoConfig(
        **{
            "num_candidates": 4,
            "groups_per_update": 4,
            "num_minibatches": 2,
            "num_iterations": 2,
            "learning_rate": 3e-3,
            "lora_r": 4,
        }
        | changes
    )


def team(config=None, *, model=None, **generation):
    """Return model, generator and learner of two policies."""
    config = config or settings()
    model = model or two_policies()
    generator = TransformersGenerator(model, word_tokenizer(), **({"max_new_tokens": 8, "seed": 0} | generation))
    return model, generator, GspoLearner(model, word_tokenizer(), TEAM, config)


def even_ids(candidate):
    return float(np.mean(candidate.token_ids % 2 == 0))


def sample(generator, reward=even_ids, *, policy="proposer_0", groups=4, k=4, seed=0, temperature=1.0):
    role = Role.REVIEWER if policy.startswith("reviewer") else Role.PROPOSER
    requests = [ask(words(3 + 2 * g, seed + g), policy, role, temperature) for g in range(groups) for _ in range(k)]
    candidates = generator.generate(requests)
    return [
        Group(policy=policy, candidates=tuple(c), rewards=np.array([reward(x) for x in c], dtype=np.float64))
        for c in (candidates[i : i + k] for i in range(0, len(candidates), k))
    ]


def rewarded(groups, rewards):
    """The same groups with these rewards."""
    return [Group(policy=g.policy, candidates=g.candidates, rewards=np.array(rewards)) for g in groups]


def everything(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def spy(monkeypatch):
    """Collect the tensors that reach TRL's loss, and with them the loss and what ``losses.gspo_loss`` makes of them."""
    seen = []
    original = gspo._Trainer._compute_loss

    def watch(self, model, inputs):
        loss = original(self, model, inputs)
        ours = gspo_loss(
            self._scored,
            inputs.get("old_per_token_logps", self._scored),
            inputs["completion_mask"],
            inputs["advantages"],
            epsilon_low=3e-4,
            epsilon_high=4e-4,
        )
        seen.append({k: v.clone() for k, v in inputs.items()} | {"loss": loss.item(), "our_loss": ours.item()})
        return loss

    monkeypatch.setattr(gspo._Trainer, "_compute_loss", watch)
    return seen


# What is trained on.


@pytest.mark.parametrize(
    ("kind", "offset", "scale"), [("qwen2", 0.0, 1.0), ("qwen3", 1000.0, 1e-3), ("llama", 0.0, 100.0)]
)
def test_the_trainer_sees_the_samplers_ids_logprobs_and_our_advantages(kind, offset, scale, monkeypatch):
    seen = spy(monkeypatch)
    _, generator, learner = team(model=two_policies(tiny_model(kind)))
    generator.max_new_tokens = 20  # long enough that some texts end
    groups = sample(generator, lambda c: offset + scale * even_ids(c))
    stats = learner.update("proposer_0", groups, seed=0)
    assert 0 < stats["logprob_gap_max"] < 1e-4
    rows = {}
    for batch in seen[:2]:  # the minibatches of the first iteration
        for i in range(len(batch["advantages"])):
            prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
            text = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
            rows.setdefault((tuple(prompt), tuple(text)), []).append(batch["advantages"][i].item())
    advantages = group_advantages(torch.tensor(np.array([g.rewards for g in groups])))
    expected = {}
    for group, row in zip(groups, advantages, strict=True):
        for candidate, advantage in zip(group.candidates, row, strict=True):
            key = (tuple(candidate.prompt_ids.tolist()), tuple(candidate.token_ids.tolist()))
            expected.setdefault(key, []).append(advantage.item())
    assert rows.keys() == expected.keys()
    for key, values in expected.items():
        assert sorted(rows[key]) == pytest.approx(sorted(values), rel=1e-4, abs=1e-5)
    endings = {(c.truncated, bool(c.token_ids[-1] == EOS)) for g in groups for c in g.candidates}
    assert endings == {(True, False), (False, True)}  # both kinds were trained on, as they were sampled


def test_only_the_updated_policy_moves():
    model, generator, learner = team()
    before = everything(model)
    learner.update("reviewer_0", sample(generator, policy="reviewer_0"), seed=0)
    after = everything(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".reviewer_0." in name}


def test_the_ratio_moves_when_a_batch_is_used_in_several_steps(monkeypatch):
    seen = spy(monkeypatch)
    _, generator, learner = team(settings(epsilon_low=3e-4, epsilon_high=4e-4))
    stats = learner.update("proposer_0", sample(generator), seed=0)
    assert stats["steps"] == 4
    assert stats["ratio_min"] < 1 - 3e-4
    assert stats["ratio_max"] > 1 + 4e-4
    assert 0 < stats["clipped_share"] <= 1
    # The objective is ours, clipped by GSPO's own band.
    assert [batch["loss"] for batch in seen] == pytest.approx([batch["our_loss"] for batch in seen], rel=0, abs=2e-6)
    _, generator, learner = team(settings(num_minibatches=1, num_iterations=1))
    stats = learner.update("proposer_0", sample(generator), seed=0)
    assert (stats["steps"], stats["ratio_min"], stats["ratio_max"], stats["clipped_share"]) == (1, 1.0, 1.0, 0.0)
    assert stats["logprob_gap_max"] < 1e-4


def logprob_of(model, policy, candidate):
    ids = torch.tensor(np.concatenate([candidate.prompt_ids, candidate.token_ids]))[None]
    with active_policy(model, policy) as base, torch.no_grad():
        scores = base(input_ids=ids).logits[0, len(candidate.prompt_ids) - 1 : -1].log_softmax(dim=-1)
    return scores.gather(1, torch.tensor(candidate.token_ids)[:, None]).mean().item()


def test_better_than_average_becomes_likelier_and_worse_less_likely():
    model, generator, learner = team(settings(num_iterations=4, **WIDE))
    groups = sample(generator)
    learner.update("proposer_0", groups, seed=0)
    change = {True: [], False: []}
    for group in groups:
        for candidate, reward in zip(group.candidates, group.rewards, strict=True):
            if reward != group.rewards.mean():
                now = logprob_of(model, "proposer_0", candidate)
                change[bool(reward > group.rewards.mean())].append(now - candidate.logprobs.mean())
    assert np.mean(change[True]) > 0.005
    assert np.mean(change[False]) < -0.005


def test_stopping_is_trained():
    config = settings(num_candidates=8, learning_rate=3e-2, num_iterations=1, **WIDE)
    model = add_policies(tiny_model(), TEAM, lora_config(config), seed=0)
    _, generator, learner = team(config, model=model)
    rates = []
    for seed in range(5):
        groups = sample(generator, lambda c: 0.0 if c.truncated else 1.0, k=8, seed=10 * seed)
        rates.append(learner.update("proposer_0", groups, seed=seed)["reward_mean"])
    assert rates[0] < 0.3
    assert rates[-1] > 0.7


def test_a_rewarded_first_token_is_learned():
    # wide margins: processors sum in different orders, and what is sampled differs with the last bits
    config = settings(num_candidates=8, groups_per_update=8, learning_rate=3e-2, **WIDE)
    model = add_policies(tiny_model(), TEAM, lora_config(config), seed=0)
    _, generator, learner = team(config, model=model, max_new_tokens=2)
    rewards = []
    for seed in range(12):
        groups = sample(generator, lambda c: float(c.token_ids[0] >= 40), groups=8, k=8, seed=10 * seed)
        rewards.append(learner.update("proposer_0", groups, seed=seed)["reward_mean"])
    assert np.mean(rewards[:2]) < 0.6
    assert np.mean(rewards[-3:]) > 0.8


# Which groups are trained on.


def test_groups_without_spread_change_nothing():
    model, generator, learner = team()
    before = everything(model)
    # 0.1 is not a binary fraction: the float32 mean of equal rewards differs from them.
    for groups in (sample(generator, lambda c: 0.1), []):
        stats = learner.update("proposer_0", groups, seed=0)
        assert (stats["steps"], stats["groups"], stats["groups_with_spread"]) == (0, len(groups), 0)
    after = everything(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_too_few_groups_are_normalised_by_the_planned_number(monkeypatch):
    one_step = {"num_minibatches": 1, "num_iterations": 1}
    seen = spy(monkeypatch)
    norms, counts = [], []
    for planned in (2, 4):
        _, generator, learner = team(settings(groups_per_update=planned, **one_step))
        groups = rewarded(sample(generator, groups=2), [0.0, 0.5, 1.0, 2.0])
        groups += sample(generator, lambda c: 1.0, groups=2, seed=50)
        stats = learner.update("proposer_0", groups, seed=0)
        norms.append(stats["grad_norm"])
        counts.append((stats["groups"], stats["groups_with_spread"], stats["groups_unused"]))
    assert counts == [(4, 2, 0)] * 2
    assert norms[0] == pytest.approx(2 * norms[1], rel=1e-4)
    assert [len(batch["advantages"]) for batch in seen] == [8, 8]  # groups without spread were not computed


def test_missing_sequences_are_filled_with_zero_advantage(monkeypatch):
    """K = 3 does not split into 2 minibatches: a copy without advantage fills up and changes nothing else."""
    seen = spy(monkeypatch)
    config = settings(num_candidates=3, num_minibatches=2, num_iterations=1)
    _, generator, learner = team(config)
    groups = rewarded(sample(generator, groups=3, k=3), [0.0, 0.5, 2.0])
    stats = learner.update("proposer_0", groups, seed=0)
    assert stats["groups_with_spread"] == 3
    advantages = torch.cat([batch["advantages"] for batch in seen])
    assert len(advantages) == 12
    assert (advantages == 0).sum() == 3


def test_surplus_groups_are_counted_and_chosen_at_random(monkeypatch):
    seen = spy(monkeypatch)
    chosen = []
    for seed in (0, 1):
        _, generator, learner = team(settings(groups_per_update=2))
        groups = rewarded(sample(generator, groups=6), [0.0, 0.5, 1.0, 2.0])
        del seen[:]
        stats = learner.update("proposer_0", groups, seed=seed)
        assert (stats["groups_with_spread"], stats["groups_unused"]) == (6, 4)
        chosen.append({tuple(row.tolist()) for batch in seen for row in batch["prompt_ids"]})
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("change", [{"gradient_accumulation": 4}, {"gradient_checkpointing": True}], ids=str)
def test_ways_of_saving_memory_give_the_same_weights(change):
    one_step = {"num_minibatches": 1, "num_iterations": 1, "max_grad_norm": 1e9}
    results = []
    for config in (settings(**one_step), settings(**one_step, **change)):
        model, generator, learner = team(config)
        stats = learner.update("proposer_0", sample(generator), seed=0)
        second = learner.update("proposer_0", sample(generator), seed=1)
        assert not model.get_base_model().is_gradient_checkpointing
        results.append((stats["loss"], stats["grad_norm"], second["grad_norm"]))
    assert results[0] == pytest.approx(results[1], rel=1e-4, abs=1e-7)


# What must not be trained on.


@pytest.mark.parametrize("steps", [{}, {"num_minibatches": 1, "num_iterations": 1}], ids=["several", "one"])
@pytest.mark.parametrize("shift", [-0.05, float("nan")])
def test_logprobs_that_are_not_the_models_stop_the_update(shift, steps):
    model, generator, learner = team(settings(**steps))
    groups = sample(generator)
    token = groups[2].candidates[1].logprobs
    honest = token[0]
    token[0] += shift
    before = everything(model)
    with pytest.raises(GeneratorError, match=rf"{re.escape(f'{token[0]:.4f}')}.*{re.escape(f'{honest:.4f}')}"):
        learner.update("proposer_0", groups, seed=0)
    after = everything(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_stale_candidates_stop_the_update():
    _, generator, learner = team(settings(learning_rate=0.1))
    groups = sample(generator)
    learner.update("proposer_0", groups, seed=0)
    with pytest.raises(GeneratorError, match="stale"):
        learner.update("proposer_0", groups, seed=1)


def test_candidates_of_another_temperature_stop_the_update():
    _, generator, learner = team()
    with pytest.raises(GeneratorError, match="temperature"):
        learner.update("proposer_0", sample(generator, temperature=0.7), seed=0)


def test_divergence_is_an_error():
    _, generator, learner = team(settings(learning_rate=1e30))
    with pytest.raises(CollapseError, match=r"diverged|no longer usable"):
        learner.update("proposer_0", sample(generator), seed=0)


def test_groups_that_make_no_sense_are_refused():
    _, generator, learner = team()
    good = sample(generator)
    with pytest.raises(UnknownNameError, match="proposer_1"):
        learner.update("proposer_1", good, seed=0)
    with pytest.raises(ConfigError, match="reviewer_0"):
        learner.update("reviewer_0", good, seed=0)
    with pytest.raises(ConfigError, match="num_candidates = 4"):
        learner.update("proposer_0", sample(generator, k=3), seed=0)
    with pytest.raises(RewardError, match="nan"):
        learner.update("proposer_0", sample(generator, lambda c: float("nan")), seed=0)
    with pytest.raises(UnknownNameError, match="proposer_9"):
        GspoLearner(learner.model, word_tokenizer(), ["proposer_9"], settings())


@pytest.mark.parametrize(
    "change",
    [
        {"num_candidates": 1},
        {"groups_per_update": 0},
        {"num_minibatches": 3},
        {"gradient_accumulation": 5},
        {"num_iterations": 0},
        {"learning_rate": 0.0},
        {"epsilon_low": 1.0},
        {"epsilon_high": 0.0},
        {"lora_r": 0},
        {"max_grad_norm": -1.0},
        {"logprob_tolerance": -1.0},
        {"learning_rate": float("nan")},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        settings(**change)


# Side effects and resuming.


def test_nothing_but_the_adapter_changes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model, generator, learner = team()
    base = model.get_base_model()
    model.train()
    base.model.layers[0].eval()
    groups = sample(generator)

    def facts():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            [module.training for module in model.modules()],
            [parameter.requires_grad for parameter in model.parameters()],
            [parameter.grad is None for parameter in model.parameters()],
            model.active_adapter,
            "forward" in base.__dict__ or "forward" in model.__dict__,
            base.config.to_dict(),
            base.generation_config.to_dict(),
            dict(os.environ),
        )

    # Away from the state in which an update with this seed would leave them.
    torch.rand(1), random.random(), np.random.random()
    before = facts()
    capfd.readouterr()
    learner.update("reviewer_0", [], seed=0)
    learner.update("proposer_0", groups, seed=0)
    after = facts()
    assert before == after
    assert list(tmp_path.iterdir()) == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def run(generator, learner, updates):
    for update in updates:
        generator.reseed(update)
        for policy in TEAM:
            groups = sample(generator, policy=policy, seed=10 * update)
            learner.update(policy, groups, seed=update)


def test_resuming_from_disk_is_exact(tmp_path):
    model, generator, learner = team(settings(num_iterations=1))
    run(generator, learner, [0])
    save_policies(model, tmp_path)
    learner.save(tmp_path)
    run(generator, learner, [1])

    torch.manual_seed(123)
    resumed = load_policies(tiny_model(), tmp_path)
    _, generator, learner = team(settings(num_iterations=1), model=resumed)
    forgetful = GspoLearner(two_policies(), word_tokenizer(), TEAM, settings())
    assert not forgetful._optimizer_state("proposer_0")
    learner.load(tmp_path)
    run(generator, learner, [1])
    steps = {int(v) for k, v in learner._optimizer_state("proposer_0").items() if k.endswith("/step")}
    assert steps == {4}  # two updates of two steps: neither loading nor updating starts the optimiser anew
    for policy in TEAM:
        assert bit_equal(weights_of(model, policy), weights_of(resumed, policy))

    without_state = load_policies(tiny_model(), tmp_path)
    _, generator, learner = team(settings(num_iterations=1), model=without_state)
    run(generator, learner, [1])
    assert not bit_equal(weights_of(model, "proposer_0"), weights_of(without_state, "proposer_0"))


def test_nothing_on_disk_is_pickled(tmp_path):
    model, generator, learner = team()
    run(generator, learner, [0])
    save_policies(model, tmp_path)
    learner.save(tmp_path)
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".safetensors", ".json"}


def test_an_unused_learner_can_be_saved_and_restored(tmp_path):
    _, _, learner = team()
    learner.save(tmp_path)
    learner.load(tmp_path)
    assert not learner._optimizer_state("proposer_0")


def test_optimiser_state_that_does_not_fit_is_named(tmp_path):
    _, generator, learner = team()
    with pytest.raises(CheckpointError, match="cannot read"):
        learner.load(tmp_path)
    run(generator, learner, [0])
    learner.save(tmp_path)
    one_policy = GspoLearner(two_policies(), word_tokenizer(), TEAM[:1], settings())
    with pytest.raises(CheckpointError, match="reviewer_0"):
        one_policy.load(tmp_path)
    other = add_policies(tiny_model(), TEAM, lora_config(settings(lora_r=2)), seed=0)
    with pytest.raises(CheckpointError, match="another rank"):
        GspoLearner(other, word_tokenizer(), TEAM, settings()).load(tmp_path)


def test_the_same_seed_gives_the_same_update_and_another_does_not():
    results = []
    for seed in (0, 0, 1):
        model, generator, learner = team()
        learner.update("proposer_0", sample(generator), seed=seed)
        results.append(weights_of(model, "proposer_0"))
    assert bit_equal(results[0], results[1])
    assert not bit_equal(results[0], results[2])


# Settings that reach the optimiser, and what is reported.


def one_step(**changes):
    """Take one step from the same weights on the same groups; return weights before, after, and Adam's state."""
    model, generator, learner = team(settings(num_minibatches=1, num_iterations=1, **changes))
    before = weights_of(model, "proposer_0")
    learner.update("proposer_0", sample(generator), seed=0)
    return before, weights_of(model, "proposer_0"), learner._optimizer_state("proposer_0")


def test_weight_decay_is_decoupled_and_of_the_size_asked_for():
    before, plain, _ = one_step()
    _, decayed, _ = one_step(weight_decay=0.5)
    for name, start in before.items():
        torch.testing.assert_close(plain[name] - decayed[name], 3e-3 * 0.5 * start, atol=1e-6, rtol=1e-3)


def test_gradients_are_scaled_down_to_the_norm_asked_for():
    def gradient_norm(state):
        return torch.stack([value.norm() for name, value in state.items() if name.endswith("/exp_avg")]).norm() / 0.1

    _, _, free = one_step(max_grad_norm=1e6)
    _, _, held = one_step(max_grad_norm=1e-3)
    assert gradient_norm(free) > 2e-3
    assert gradient_norm(held).item() == pytest.approx(1e-3, rel=1e-3)


def test_the_summary_is_of_real_sequences_and_means_over_steps():
    trainer = object.__new__(gspo._Trainer)
    trainer.state = SimpleNamespace(log_history=[{"grad_norm": 1.0}, {"grad_norm": 3.0}], global_step=2)
    trainer.epsilon_low = trainer.epsilon_high = 0.1
    trainer._losses, trainer._gap_max = [1.0, 3.0], 0.0
    first_step = (torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0]))
    last_step = (torch.tensor([1.2, 0.95, 9.0]), torch.tensor([1.0, 1.0, 0.0]))  # the third is a filler
    trainer._ratios = {0: [first_step], 1: [last_step]}
    summary = trainer.summary()
    assert (summary["loss"], summary["grad_norm"], summary["steps"]) == (2.0, 2.0, 2.0)
    assert summary["ratio_max"] == pytest.approx(1.2)
    assert summary["ratio_mean"] == pytest.approx(1.075)
    assert summary["clipped_share"] == 0.5


def test_nothing_is_sent_anywhere(monkeypatch):
    def phones_home(self):
        raise AssertionError("telemetry was sent")

    monkeypatch.setattr(GRPOTrainer, "_send_telemetry", phones_home)
    _, generator, learner = team()
    assert learner.update("proposer_0", sample(generator), seed=0)["steps"] == 4
