"""Let a model write utterances for many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["write_utterances"]


def write_utterances(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sample: bool = True,
    max_new_tokens: int = 64,
    batch_size: int = 256,
) -> list[str]:
    """Return one utterance for each prompt, sampled at temperature 1 without top-k or top-p, or greedy.

    Prompts are batched by length, because padding costs as much as text.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    decoding = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        for begin in range(0, len(order), batch_size):
            chunk = order[begin : begin + batch_size]
            inputs = tokenizer([prompts[i] for i in chunk], return_tensors="pt", padding=True, padding_side="left")
            ids = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max_new_tokens,
                **decoding,
            )
            new = ids[:, inputs["input_ids"].shape[1] :]
            for i, text in zip(chunk, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                texts[i] = text
    return texts
