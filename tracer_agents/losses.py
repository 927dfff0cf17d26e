"""The sequence-level clipped objective (GSPO) as pure torch functions: the readable reference for what TRL computes.

Owns the formulas only; ``trainers/gspo.py`` trains through TRL, and a test compares the two on the same inputs.
Shapes: ``G`` groups, ``K`` candidates of a group, ``B`` sequences, ``L`` tokens of the longest sequence.

Source: Zheng et al. (2025), Group Sequence Policy Optimization, arXiv 2507.18071, equations 5 to 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ADVANTAGE_EPSILON", "group_advantages", "gspo_loss", "ratio_stats", "sequence_ratio"]

ADVANTAGE_EPSILON = 1e-4
"""Added to a group's standard deviation, in reward units; TRL's value."""


def group_advantages(rewards: Tensor) -> Tensor:
    """Compare each candidate with the others of its group.

    Args:
        rewards: float, shape (G, K), K at least 2, in reward units.

    Returns:
        Shape (G, K), ``(r - mean) / (std + 1e-4)`` with the unbiased standard deviation of the group; all zero in a
        group whose rewards are equal.

    Raises:
        ValueError: if ``rewards`` is not two-dimensional or K is less than 2.

    Source: arXiv 2507.18071, equation 6; the unbiased deviation and the 1e-4 are TRL's.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must have shape (G, K) with K at least 2, got {tuple(rewards.shape)}")
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + ADVANTAGE_EPSILON)


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return the length-normalised likelihood ratio ``(pi(y) / pi_old(y)) ** (1 / |y|)`` of each sequence.

    Args:
        logprobs: float, shape (B, L), log-probabilities under the policy in training; the gradient flows here.
        old_logprobs: float, shape (B, L), log-probabilities under the behaviour policy.
        mask: shape (B, L), 1 for generated tokens and 0 for padding.

    Returns:
        Shape (B,), positive; 1 for a sequence without tokens.

    Source: arXiv 2507.18071, equation 7.
    """
    weights = mask.to(logprobs.dtype)
    log_ratio = ((logprobs - old_logprobs) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return torch.exp(log_ratio)


def gspo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Tensor:
    """Return ``-mean min(s A, clip(s, 1 - epsilon_low, 1 + epsilon_high) A)`` over the sequences.

    Args:
        logprobs: float, shape (B, L), see ``sequence_ratio``.
        old_logprobs: float, shape (B, L).
        mask: shape (B, L).
        advantages: float, shape (B,), one per sequence.
        epsilon_low: how far the ratio may fall below 1, in (0, 1).
        epsilon_high: how far the ratio may rise above 1, positive.

    Returns:
        A scalar to be minimised. A sequence whose ratio is clipped on the side its advantage pushes it to has no
        gradient.

    Source: arXiv 2507.18071, equation 5.
    """
    ratio = sequence_ratio(logprobs, old_logprobs, mask)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def ratio_stats(ratio: Tensor, advantages: Tensor, *, epsilon_low: float, epsilon_high: float) -> dict[str, float]:
    """Describe the ratios of one optimiser step.

    Args:
        ratio: shape (B,), B at least 1, from ``sequence_ratio``.
        advantages: shape (B,).
        epsilon_low: see ``gspo_loss``.
        epsilon_high: see ``gspo_loss``.

    Returns:
        ``ratio_mean``, ``ratio_min``, ``ratio_max``, and ``clipped_share``: the share, in [0, 1], of sequences whose
        gradient the clip removes (below ``1 - epsilon_low`` with a negative advantage, or above ``1 + epsilon_high``
        with a positive one).
    """
    clipped = ((ratio < 1 - epsilon_low) & (advantages < 0)) | ((ratio > 1 + epsilon_high) & (advantages > 0))
    return {
        "ratio_mean": ratio.mean().item(),
        "ratio_min": ratio.min().item(),
        "ratio_max": ratio.max().item(),
        "clipped_share": clipped.float().mean().item(),
    }
