"""The GSPO objective: hand-computed numbers with a ratio other than 1, and parity with TRL on the same inputs."""

import math

import pytest
import torch
from test_generator import tiny_model, word_tokenizer

from tracer_agents.losses import group_advantages, gspo_loss, ratio_stats, sequence_ratio

LOW, HIGH = 0.1, 0.2


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    std = math.sqrt(4 / 3)  # unbiased: four squared deviations of 1, divided by 3
    expected = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0] * 4], dtype=torch.float64) / (std + 1e-4)
    torch.testing.assert_close(group_advantages(rewards), expected)


@pytest.mark.parametrize("shape", [(4,), (3, 1), (2, 2, 2)])
def test_advantages_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        group_advantages(torch.zeros(shape))


def test_ratio_is_a_mean_over_the_sequences_own_tokens():
    old = torch.tensor([[-1.0, -2.0, -9.0], [-1.0, -1.0, -1.0]])
    new = torch.tensor([[-0.9, -2.3, -5.0], [-1.0, -1.0, -0.4]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = torch.tensor([math.exp((0.1 - 0.3) / 2), math.exp(0.6 / 3)])
    torch.testing.assert_close(sequence_ratio(new, old, mask), expected)


# ratio, advantage -> value of min(s A, clip(s) A), and whether the clip removes the gradient
CASES = [
    (1.5, 1.0, 1.2, True),  # above the band, pushed up: clipped
    (1.5, -1.0, -1.5, False),  # above the band, pushed down: not clipped
    (0.5, -1.0, -0.9, True),  # below the band, pushed down: clipped
    (0.5, 1.0, 0.5, False),  # below the band, pushed up: not clipped
    (1.05, 2.0, 2.1, False),  # inside
]


@pytest.mark.parametrize(("ratio", "advantage", "value", "clipped"), CASES)
def test_clip_by_hand_on_both_sides(ratio, advantage, value, clipped):
    new = torch.full((1, 4), math.log(ratio) - 1.0, requires_grad=True)
    old, mask = torch.full((1, 4), -1.0), torch.ones(1, 4)
    loss = gspo_loss(new, old, mask, torch.tensor([advantage]), epsilon_low=LOW, epsilon_high=HIGH)
    assert loss.item() == pytest.approx(-value, rel=1e-5)
    loss.backward()
    assert (new.grad == 0).all() == clipped
    if not clipped:  # minimising the loss raises what has a positive advantage
        assert (torch.sign(new.grad) == -math.copysign(1, advantage)).all()
        torch.testing.assert_close(new.grad, torch.full((1, 4), -advantage * ratio / 4))


def test_loss_is_the_mean_over_sequences_whatever_their_lengths():
    old = torch.zeros(2, 3)
    new = torch.tensor([[math.log(1.1), 0.0, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    loss = gspo_loss(new, old, mask, torch.tensor([1.0, -0.5]), epsilon_low=LOW, epsilon_high=HIGH)
    assert loss.item() == pytest.approx(-(1.1 - 0.5) / 2, rel=1e-6)


def test_ratio_stats_count_only_what_the_clip_stops():
    ratio = torch.tensor([case[0] for case in CASES])
    advantages = torch.tensor([case[1] for case in CASES])
    stats = ratio_stats(ratio, advantages, epsilon_low=LOW, epsilon_high=HIGH)
    assert stats == pytest.approx(
        {"ratio_mean": 1.01, "ratio_min": 0.5, "ratio_max": 1.5, "clipped_share": 2 / 5}, rel=1e-6
    )


def test_parity_with_trl(tmp_path):
    """Same inputs, ratios on both sides of the band: TRL's loss and gradient are ours."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = tiny_model("qwen2"), word_tokenizer()
    settings = GRPOConfig(
        output_dir=str(tmp_path),
        importance_sampling_level="sequence",
        loss_type="grpo",
        beta=0.0,
        epsilon=LOW,
        epsilon_high=HIGH,
        temperature=1.0,
        num_generations=2,
        per_device_train_batch_size=6,
        report_to=[],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda prompts, **_: [0.0] * len(prompts),
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": ["w1", "w2", "w3"]}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(0)
    prompt_ids = torch.randint(5, 40, (6, 4), generator=generator)
    completion_ids = torch.randint(5, 40, (6, 5), generator=generator)
    mask = (torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]).long()
    advantages = torch.tensor([1.0, -1.0, 0.7, -0.3, 0.2, -0.6])

    def score() -> torch.Tensor:
        ids = torch.cat([prompt_ids, completion_ids], dim=1)
        attention = torch.cat([torch.ones_like(prompt_ids), mask], dim=1)
        logits = model(input_ids=ids, attention_mask=attention).logits[:, 3:-1]
        return logits.log_softmax(dim=-1).gather(2, completion_ids[..., None]).squeeze(2)

    model.train().requires_grad_(True)
    shift = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.05, -0.05])[:, None]
    old = (score() - shift).detach()
    ours = gspo_loss(score(), old, mask, advantages, epsilon_low=LOW, epsilon_high=HIGH)
    ours.backward()
    our_gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    theirs = trainer._compute_loss(
        model,
        {
            "prompt_ids": prompt_ids,
            "prompt_mask": torch.ones_like(prompt_ids),
            "completion_ids": completion_ids,
            "completion_mask": mask,
            "advantages": advantages,
            "old_per_token_logps": old,
            "num_items_in_batch": mask.sum(),
        },
    )
    theirs.backward()
    ratio = sequence_ratio(score(), old, mask)
    assert ratio.min() < 1 - LOW < 1 + HIGH < ratio.max()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert max(g.abs().max() for g in our_gradients.values()) > 1e-3
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(our_gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
