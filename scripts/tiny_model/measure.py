"""Measure a tiny model on held-out questions: ``python -m scripts.tiny_model.measure DIR``.

Plays the game of one proposer and one reviewer, in which everybody always speaks, on the first questions of the test
split at the default difficulty, at temperature 1 without top-k or top-p. Prints the numbers as JSON and writes them to
``DIR/measured.json``.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from scripts.tiny_model.sampling import write_utterances
from tracer_env.dialogue import acting_seats, advance, initial_state
from tracer_env.metrics import accuracy_interval
from tracer_env.prompts import build_prompt
from tracer_env.tasks.arithmetic import CONSTRUCTS, ArithmeticTask
from tracer_env.types import Action, Control, DialogueState, Role, Rules, Seat, Utterance, Verdict

__all__ = ["measure", "play_all", "share"]


def share(hits: Iterable[bool]) -> dict[str, Any]:
    """Return the share of True with its 95 % Wilson interval and the number of cases."""
    flags = list(hits)
    if not flags:
        return {"share": None, "ci95": None, "cases": 0}
    interval = [round(bound, 4) for bound in accuracy_interval(sum(flags), len(flags))]
    return {"share": round(sum(flags) / len(flags), 4), "ci95": interval, "cases": len(flags)}


def play_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ArithmeticTask,
    indices: Iterable[int],
    *,
    rounds: int = 5,
    seed: int = 0,
) -> list[DialogueState]:
    """Play one game for each question in step; every seat always speaks."""
    rules = Rules(rounds=rounds)
    states = [initial_state(task.question(i)) for i in indices]
    for round_index in range(rounds):
        seats = [acting_seats(rules, state)[0] for state in states]
        prompts = [str(build_prompt(s, seat, task.kind)) for s, seat in zip(states, seats, strict=True)]
        texts = write_utterances(model, tokenizer, prompts, seed=seed + round_index)
        states = [
            advance(
                rules, task, state, {seat: Action(Control.SPEAK, Utterance(text, tokens_out=_length(tokenizer, text)))}
            )
            for state, seat, text in zip(states, seats, texts, strict=True)
        ]
    return states


def _length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text)["input_ids"]) + 1  # the end token counts


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, questions: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Return all numbers of the model card; a deterministic function of model, count and seed."""
    task = ArithmeticTask("test")
    indices = range(questions)
    states = play_all(model, tokenizer, task, indices, seed=seed)
    seat = Seat(Role.PROPOSER, 0)
    prompts = [str(build_prompt(initial_state(task.question(i)), seat, task.kind)) for i in indices]
    golds = [task.question(i).gold for i in indices]

    def right(texts: list[str]) -> list[bool]:
        return [task.answers_match(task.extract_answer(t), gold) for t, gold in zip(texts, golds, strict=True)]

    greedy = right(write_utterances(model, tokenizer, prompts, sample=False))
    fresh = right(write_utterances(model, tokenizer, prompts, seed=seed + 100))  # a second, independent sample
    first = [bool(s.turns[0].correct) for s in states]
    constructs = [{step.construct for step in task.plan(i).steps} for i in indices]

    flows: dict[str, list[bool]] = {key: [] for key in ("fixed", "fixed_fresh", "stays_right", "keeps_answer")}
    for state, fresh_right in zip(states, fresh, strict=True):
        solution, verdict, second = state.turns[:3]
        if verdict.verdict is Verdict.RIGHT:
            flows["keeps_answer"].append(second.answer == solution.answer)
        elif verdict.verdict is Verdict.WRONG and solution.correct:
            flows["stays_right"].append(bool(second.correct))
        elif verdict.verdict is Verdict.WRONG:
            flows["fixed"].append(bool(second.correct))
            flows["fixed_fresh"].append(fresh_right)
    reviews = [(bool(s.turns[0].correct), s.turns[1].verdict) for s in states]
    true_positive = share(v is Verdict.RIGHT for correct, v in reviews if correct)
    true_negative = share(v is Verdict.WRONG for correct, v in reviews if not correct)
    turns = [t for s in states for t in s.turns]
    lengths = {role: [t.tokens_out for t in turns if t.seat.role is role] for role in Role}
    return {
        "questions": questions,
        "split": "test",
        "seed": seed,
        "first_proposal_sampled": share(first),
        "first_proposal_greedy": share(greedy),
        "judge_true_positive": true_positive,
        "judge_true_negative": true_negative,
        "judge_sum": round((true_positive["share"] or 0.0) + (true_negative["share"] or 0.0), 4),
        "fixed_after_justified_wrong": share(flows["fixed"]),
        "fresh_sample_on_the_same_questions": share(flows["fixed_fresh"]),
        "stays_right_after_mistaken_wrong": share(flows["stays_right"]),
        "keeps_answer_after_right": share(flows["keeps_answer"]),
        "final_after_5_spoken_rounds": share(s.correct for s in states),
        "unparsable_proposals": share(t.invalid for t in turns if t.seat.role is Role.PROPOSER),
        "unparsable_reviews": share(t.invalid for t in turns if t.seat.role is Role.REVIEWER),
        "mean_tokens_per_utterance": {role.value: round(sum(n) / len(n), 1) for role, n in lengths.items()},
        "first_proposal_sampled_by_construct": {
            c: share(ok for ok, present in zip(first, constructs, strict=True) if c in present) for c in CONSTRUCTS
        },
        "first_proposal_greedy_by_construct": {
            c: share(ok for ok, present in zip(greedy, constructs, strict=True) if c in present) for c in CONSTRUCTS
        },
        "verdicts": dict(Counter("none" if v is None else v.value for _, v in reviews)),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    numbers = measure(model, AutoTokenizer.from_pretrained(args.model), questions=args.questions, seed=args.seed)
    text = json.dumps(numbers, indent=1)
    (args.model / "measured.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
