"""Train the tiny model from scratch: ``python -m scripts.tiny_model.train --out DIR``.

Each example is a prompt of the game and an utterance, and only the utterance is learned. Prompts of one game
share most of their text, so all examples of a game are packed as a tree: a token sees its ancestors only, and its
position is its depth. That is the same loss as training on each example alone, at about half the cost.

Four stages: equations alone; first proposals alone; whole games of simulated learners; games in which the model's own
sampled proposals stand as well, so that the judge meets the errors it will have to find. The first two are there for
speed: short texts in which every token teaches.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.tiny_model.corpus import Example, Slips, first_solution, solution_lines, transcripts
from scripts.tiny_model.sampling import write_utterances
from scripts.tiny_model.tokenizer import build_tokenizer
from tracer_env.dialogue import initial_state
from tracer_env.prompts import build_prompt
from tracer_env.tasks.arithmetic import ArithmeticTask
from tracer_env.types import Role, Seat

VERDICT_WEIGHT = 12.0
"""Weight of a review's first token in the loss: it is one token in thirty and carries the judgement."""


WARMUP_STEPS = 40


@dataclass(frozen=True)
class Stage:
    """How a stage is trained; its learning rate falls along a cosine to ``final_share`` of itself."""

    minutes: float
    batch_size: int  # packs
    learning_rate: float
    final_share: float


STAGES = {
    "sums": Stage(2.0, 24, 2e-3, 0.7),
    "solutions": Stage(7.0, 56, 1.5e-3, 0.7),
    "games": Stage(60.0, 20, 1.5e-3, 0.05),
    "own": Stage(50.0, 20, 1e-3, 0.02),
}


@dataclass(frozen=True)
class Pack:
    """All examples of one game as a tree of text segments; ``L`` tokens."""

    ids: list[int]  # (L,)
    positions: list[int]  # (L,)
    segment: list[int]  # (L,) index of the token's segment
    parents: list[int]  # (segments,) parent segment, -1 for a root
    weights: list[float]  # (L,) loss weight of the token, 0 for what is read


def pack_examples(examples: list[Example], tokenizer: PreTrainedTokenizerFast, cache: dict[str, list[int]]) -> Pack:
    """Merge the common first sections of the prompts into a tree."""
    pack = Pack([], [], [], [], [])
    known: dict[tuple[int, str], int] = {}
    ends: list[int] = []  # position after each segment

    def encode(text: str) -> list[int]:
        if text not in cache:
            cache[text] = tokenizer(text)["input_ids"]
        return cache[text]

    def add(parent: int, ids: list[int], weights: list[float]) -> int:
        begin = ends[parent] if parent >= 0 else 0
        pack.parents.append(parent)
        pack.ids.extend(ids)
        pack.positions.extend(range(begin, begin + len(ids)))
        pack.segment.extend([len(ends)] * len(ids))
        pack.weights.extend(weights)
        ends.append(begin + len(ids))
        return len(ends) - 1

    for example in examples:
        parent = -1
        texts = [section.render() for section in example.prompt.sections]
        for text in texts[:-1]:
            if (parent, text) not in known:
                ids = encode(text)
                known[parent, text] = add(parent, ids, [0.0] * len(ids))
            parent = known[parent, text]
        task, utterance = encode(texts[-1]), [*encode(example.utterance), tokenizer.eos_token_id]
        first = VERDICT_WEIGHT if example.role is Role.REVIEWER else 1.0
        add(parent, task + utterance, [0.0] * len(task) + [first] + [1.0] * (len(utterance) - 1))
    return pack


def collate(packs: list[Pack], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad packs to tensors ``ids, positions, weights (B, L)`` and ``mask (B, 1, L, L)`` (True: may see)."""
    length = -(-max(len(p.ids) for p in packs) // 16) * 16
    ids = torch.full((len(packs), length), pad_id)
    positions = torch.zeros((len(packs), length), dtype=torch.long)
    weights = torch.zeros((len(packs), length))
    mask = torch.eye(length, dtype=torch.bool).repeat(len(packs), 1, 1)  # padding sees itself: no empty softmax
    for b, pack in enumerate(packs):
        n = len(pack.ids)
        ids[b, :n] = torch.tensor(pack.ids)
        positions[b, :n] = torch.tensor(pack.positions)
        weights[b, :n] = torch.tensor(pack.weights)
        sees = np.eye(len(pack.parents), dtype=bool)
        for s, parent in enumerate(pack.parents):
            if parent >= 0:
                sees[s] |= sees[parent]
        segment = np.array(pack.segment)
        mask[b, :n, :n] = torch.from_numpy(sees[segment[:, None], segment[None, :]]).tril()
    return {"ids": ids, "positions": positions, "weights": weights, "mask": mask[:, None]}


def loss_of(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the weighted mean negative log-likelihood of the utterances.

    A token is predicted at its predecessor *in the sequence*, which is its parent in the tree as well wherever the
    weight is positive: an utterance follows its task inside one segment.
    """
    mask = batch["mask"]
    bias = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    hidden = model.model(
        input_ids=batch["ids"], position_ids=batch["positions"], attention_mask=bias, use_cache=False
    ).last_hidden_state
    chosen = batch["weights"][:, 1:] > 0
    logits = model.lm_head(hidden[:, :-1][chosen])
    losses = torch.nn.functional.cross_entropy(logits.float(), batch["ids"][:, 1:][chosen], reduction="none")
    weights = batch["weights"][:, 1:][chosen]
    return (losses * weights).sum() / weights.sum()


def pack_sums(task: ArithmeticTask, begin: int, rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast) -> Pack:
    """Write eight solutions one below the other; only the results of their equations are learned."""
    lines: list[str] = []
    for index in range(begin, begin + 8):
        lines.extend(solution_lines(task.plan(index), Slips(), rng))
    pack = Pack([], [], [], [-1], [])
    for line in lines:
        ids = tokenizer(line + "\n")["input_ids"]
        marks = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token in (" =", "####")]
        pack.ids.extend(ids)
        pack.weights.extend(float(i > marks[-1]) for i in range(len(ids)))
    pack.positions.extend(range(len(pack.ids)))
    pack.segment.extend([0] * len(pack.ids))
    return pack


def batches(
    stage: str, tokenizer: PreTrainedTokenizerFast, size: int, seed: int, start: int, pool: dict[int, tuple[str, ...]]
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of packs of similar length, without end.

    Args:
        stage: ``sums`` (equations only), ``solutions`` (first proposals only), ``games`` or ``own``.
        tokenizer: the tokenizer.
        size: packs per batch.
        seed: seed of the writers.
        start: index of the first question.
        pool: for ``own``: the model's first proposals by question index. Half of the packs go through these
            questions over and over, the others through new ones with learners' proposals.
    """
    task, slips, rng = ArithmeticTask("train"), Slips(), np.random.default_rng(seed)
    cache: dict[str, list[int]] = {}
    index, pooled = start, sorted(pool)
    while True:
        packs: list[Pack] = []
        while len(packs) < size * 16:
            if stage == "sums":
                packs.append(pack_sums(task, index, rng, tokenizer))
                index += 8
                continue
            if stage == "solutions":
                games: tuple[list[Example], ...] = (first_solution(task, index, slips, rng),)
            elif stage == "own" and rng.random() < 0.5:
                chosen = pooled[int(rng.integers(len(pooled)))]
                games = transcripts(task, chosen, slips, rng, tuple(rng.choice(pool[chosen], 2)))
            else:
                games = transcripts(task, index, slips, rng)
            index += 1
            packs.extend(pack_examples(game, tokenizer, cache) for game in games)
        cache.clear()
        packs.sort(key=lambda p: len(p.ids))
        for b in rng.permutation(16):
            yield collate(packs[b * size : (b + 1) * size], tokenizer.pad_token_id)


def own_proposals(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, start: int, questions: int, each: int, limit_s: float
) -> dict[int, tuple[str, ...]]:
    """Sample first proposals at temperature 1 for training questions; stops early at the time limit."""
    task = ArithmeticTask("train")
    seat = Seat(Role.PROPOSER, 0)
    pool: dict[int, tuple[str, ...]] = {}
    begin = time.monotonic()
    for chunk in range(start, start + questions, 128):
        if time.monotonic() - begin > limit_s:
            break
        indices = range(chunk, chunk + 128)
        prompts = [str(build_prompt(initial_state(task.question(i)), seat, task.kind)) for i in indices]
        texts = write_utterances(model, tokenizer, [p for p in prompts for _ in range(each)], seed=chunk)
        pool.update({i: tuple(texts[k * each : (k + 1) * each]) for k, i in enumerate(indices)})
    return pool


def train_stage(
    model: LlamaForCausalLM,
    data: Iterator[dict[str, torch.Tensor]],
    minutes: float,
    learning_rate: float,
    final_share: float,
    name: str,
) -> int:
    """Run AdamW for a time, not a number of steps: the cosine follows the clock. Returns the steps taken."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    # where a processor only emulates bfloat16 it is ten times slower than float32
    has_bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    begin, step, tokens = time.monotonic(), 0, 0
    while (done := (time.monotonic() - begin) / (60 * minutes)) < 1:
        cosine = final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done))
        rate = learning_rate * min((step + 1) / WARMUP_STEPS, cosine)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = next(data)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16):
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + int((batch["ids"] != 0).sum())
        if step % 50 == 0:
            elapsed = time.monotonic() - begin
            print(f"{name} step {step} loss {loss.item():.4f} lr {rate:.2e} {tokens / elapsed:.0f} tok/s", flush=True)
    return step


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the transformers folder."""
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=64)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def save_recipe(out: Path, start_from: Path | None, model: LlamaForCausalLM, words: int) -> None:
    """Write the commands that led here to ``recipe.json``, for the model card."""
    earlier = json.loads((start_from / "recipe.json").read_text())["commands"] if start_from is not None else []
    command = " ".join(["python -m scripts.tiny_model.train", *sys.argv[1:]])
    recipe = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "words": words,
        "commands": [*earlier, command],
    }
    (out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for stage, defaults in STAGES.items():
        parser.add_argument(f"--{stage}-minutes", type=float, default=defaults.minutes)
    parser.add_argument("--start-from", type=Path, help="continue from this folder's weights")
    parser.add_argument("--start-index", type=int, default=0, help="first question; when continuing, take unseen ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    if args.start_from is None:
        # Four layers and one key-value head: sampling on a CPU is bound by copying the cache.
        # Llama with biases, and not Qwen2: AutoTokenizer of transformers 5 gives every qwen2 folder Qwen's own
        # pre-tokenizer, whatever its tokenizer.json says.
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=160, intermediate_size=448, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=2048, tie_word_embeddings=True,
            attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.05,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.start_from, dtype=torch.float32)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} words", flush=True)
    for number, stage in enumerate(STAGES):
        minutes = getattr(args, f"{stage}_minutes")
        if minutes <= 0:
            continue
        begin, pool = time.monotonic(), {}
        if stage == "own":
            pool = own_proposals(model.eval(), tokenizer, 90_000_000, 20_000, 2, 60 * minutes / 5)
            print(f"{len(pool)} questions with own proposals", flush=True)
        left = minutes - (time.monotonic() - begin) / 60
        start = args.start_index + 10_000_000 * number
        data = batches(stage, tokenizer, STAGES[stage].batch_size, args.seed + number, start, pool)
        train_stage(model, data, left, STAGES[stage].learning_rate, STAGES[stage].final_share, stage)
        save(model, tokenizer, args.out)
    save(model, tokenizer, args.out)
    save_recipe(args.out, args.start_from, model, len(tokenizer))


if __name__ == "__main__":
    main()
