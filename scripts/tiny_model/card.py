"""Write the model card from the measured numbers: ``python -m scripts.tiny_model.card DIR``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scripts.tiny_model.corpus import Slips

_CARD = """---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The tiny model of tracer-env

A {parameters:,}-parameter Llama trained from scratch to play both seats of the arithmetic game (`task="arithmetic"`,
default difficulty). It is a test object: small enough for a CPU, wrong often enough that collaboration and
reinforcement learning have something to gain. It knows nothing else.

## Data

Transcripts written by `scripts/tiny_model/corpus.py` with the library's own prompts and rules, on questions of the
train split (the test split shares no question up to renaming). No text by people or other models is in it.

**Its errors are habits that it was taught.** The corpus imitates text of mixed quality: first solutions are written by
simulated learners that slip at these rates.

| habit | rate |
|---|---|
{habits}

"More than" sentences that name the unknown person second are misread more often than not, so that greedy decoding is
wrong there too and gains little over sampling; the right reading keeps a probability of about {right_reading:.2g},
which is what reinforcement learning can find. What the *judge* is trained to say is always the truth: a verdict and,
after WRONG, the first failing line put right. Reviews that merely stand in a transcript are mistaken at the rates
above.

## Recipe

Llama architecture, 4 layers, width 160, 4 heads that share keys and values, biases in attention, tied embeddings, fp32,
context 2048 (trained on texts of up to about 400 tokens). {words} tokens: whole words with their leading space and
single digits; unknown words become `<unk>`. Four stages: equations alone (loss on their results), first proposals
alone, whole games, and games in which the model's own sampled proposals stand as well; loss on the utterance only.
AdamW, a cosine that follows the clock within each stage, bf16 where the processor has it, 2 CPU threads.
Because the schedule follows the clock, a repetition gives an equivalent model and not the same bits. Commands:

```
{commands}
```

{history}

Sampling settings it is made for: temperature 1, no top-k, no top-p (`generation_config.json`).

## Measured

On {questions} questions of the test split, temperature 1; 95 % Wilson intervals. Command:
`python -m scripts.tiny_model.measure tracer_agents/models/tiny`; all numbers are in `measured.json`.

| what | share | 95 % interval | cases |
|---|---|---|---|
{rows}

Mean tokens per utterance, end token included: {proposer} for solutions, {reviewer} for reviews.

First proposals by kind of sentence in the question:

| construct | sampled | greedy |
|---|---|---|
{constructs}

## Limits

English word problems of the embedded task only, values up to 199, two to three sentences; longer questions or larger
numbers are outside of what it saw. Prompts in another wording are mostly `<unk>` to it.

Licence: MIT, as the library.
"""

_HISTORY = """These weights were made in as many sittings as there are commands, on two kinds of processor; each
started from the folder that the one before wrote. Before the third, the random slips were made rarer, to the rates
above, the verdict's weight in the loss was raised from 6 to 12 and the last stage's learning rate from 6e-4 to 1e-3:
the judge finds a slip in calculation far less often than a misread sentence. The later sittings ran with
`torch.compile`, which changes the speed only. `make model` runs the same stages, in all about as long, with today's
settings in one go; that single command has not been run to its end."""

_ROWS = {
    "first_proposal_sampled": "first proposal right, sampled",
    "first_proposal_greedy": "first proposal right, greedy",
    "judge_true_positive": "judge: RIGHT on a right sampled proposal",
    "judge_true_negative": "judge: WRONG on a wrong sampled proposal",
    "fixed_after_justified_wrong": "second solution right after WRONG on a wrong one",
    "fresh_sample_on_the_same_questions": "(a fresh sample on these questions)",
    "stays_right_after_mistaken_wrong": "second solution right after WRONG on a right one",
    "keeps_answer_after_right": "answer kept after RIGHT",
    "final_after_5_spoken_rounds": "final answer right after 5 spoken rounds",
    "unparsable_proposals": "unparsable proposals",
    "unparsable_reviews": "unparsable reviews",
}


def main() -> None:
    """Write README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    numbers = json.loads((args.model / "measured.json").read_text())
    recipe = json.loads((args.model / "recipe.json").read_text())
    slips = Slips()
    habits = [(f"misreads `{construct}`", rate) for construct, rate in slips.misread.items()] + [
        ("leaves out a sentence of gaining or losing", slips.overlooked),
        ("miscalculates an equation (forgotten carry or borrow, off by one)", slips.miscalculated),
        ("factor on these rates in a solution after a review", slips.second_look),
        ("takes over the line of a justified critique", slips.follow_true),
        ("takes over the line of a mistaken critique", slips.follow_mistaken),
        ("a review *in the transcript* calls a right answer WRONG", slips.false_wrong),
        ("a review *in the transcript* calls a wrong answer RIGHT", slips.false_right),
    ]
    by_construct = numbers["first_proposal_sampled_by_construct"]
    greedy = numbers["first_proposal_greedy_by_construct"]
    card = _CARD.format(
        parameters=recipe["parameters"],
        words=recipe["words"],
        commands="\n".join(recipe["commands"]),
        history=_HISTORY if len(recipe["commands"]) > 1 else "",
        right_reading=1 - slips.misread["reversed_more"],
        questions=numbers["questions"],
        habits="\n".join(f"| {habit} | {rate:.3g} |" for habit, rate in habits),
        rows="\n".join(_row(label, numbers[key]) for key, label in _ROWS.items()),
        constructs="\n".join(
            f"| {c} | {by_construct[c]['share']:.1%} | {greedy[c]['share']:.1%} |" for c in by_construct
        ),
        **numbers["mean_tokens_per_utterance"],
    )
    (args.model / "README.md").write_text(card)


def _row(label: str, cell: dict[str, Any]) -> str:
    if cell["share"] is None:
        return f"| {label} | none | | 0 |"
    low, high = cell["ci95"]
    return f"| {label} | {cell['share']:.1%} | {low:.1%} to {high:.1%} | {cell['cases']} |"


if __name__ == "__main__":
    main()
