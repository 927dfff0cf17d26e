"""The shipped tiny model: it loads, is small, its tokenizer loses nothing, and it is as good as its card says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.tiny_model.corpus import Slips, review, solution_lines, transcripts, true_lines
from scripts.tiny_model.sampling import write_utterances
from tracer_env.answers import parse_verdict
from tracer_env.dialogue import advance, initial_state
from tracer_env.prompts import build_prompt
from tracer_env.tasks.arithmetic import ArithmeticTask, Plan, Step
from tracer_env.types import Action, Control, Role, Rules, Seat, Utterance, Verdict

FOLDER = Path(__file__).parents[2] / "tracer_agents" / "models" / "tiny"
NUM_QUESTIONS = 256


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_folder_is_small_and_complete() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {"tokenizer_config.json", "README.md", "measured.json"} <= names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000


def test_model_samples_the_plain_distribution(model, tokenizer) -> None:
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == 2048
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_tokenizer_loses_nothing(tokenizer) -> None:
    task, rng = ArithmeticTask("test"), np.random.default_rng(0)
    for index in range(500):
        for game in transcripts(task, index, Slips(), rng):
            text = game[-1].prompt + game[-1].utterance
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
    for word in ("RIGHT", "WRONG", "\n", " 7", "7"):
        assert len(tokenizer(word)["input_ids"]) == 1
    assert tokenizer.unk_token_id in tokenizer("zyzzyva")["input_ids"]


def test_the_model_is_as_good_as_its_card_says(model, tokenizer) -> None:
    task, rules = ArithmeticTask("test"), Rules()
    proposer, reviewer = Seat(Role.PROPOSER, 0), Seat(Role.REVIEWER, 0)
    states = [initial_state(task.question(i)) for i in range(5000, 5000 + NUM_QUESTIONS)]
    texts = write_utterances(model, tokenizer, [build_prompt(s, proposer, task.kind) for s in states])
    states = [
        advance(rules, task, s, {proposer: Action(Control.SPEAK, Utterance(t))})
        for s, t in zip(states, texts, strict=True)
    ]
    right = np.array([s.correct for s in states])
    card = json.loads((FOLDER / "measured.json").read_text())
    assert abs(right.mean() - card["first_proposal_sampled"]["share"]) < 0.12

    reviews = write_utterances(model, tokenizer, [build_prompt(s, reviewer, task.kind) for s in states])
    verdicts = [parse_verdict(text) for text in reviews]
    says_right = np.array([v is Verdict.RIGHT for v in verdicts])
    says_wrong = np.array([v is Verdict.WRONG for v in verdicts])
    assert abs(says_right[right].mean() + says_wrong[~right].mean() - card["judge_sum"]) < 0.15


def test_measured_numbers_keep_the_promises() -> None:
    numbers = json.loads((FOLDER / "measured.json").read_text())
    sampled, greedy = (numbers[f"first_proposal_{how}"]["share"] for how in ("sampled", "greedy"))
    assert numbers["questions"] >= 2000
    assert 0.40 <= sampled <= 0.65
    assert greedy - sampled <= 0.10
    assert numbers["judge_sum"] >= 1.6
    assert numbers["unparsable_proposals"]["share"] < 0.01
    assert numbers["unparsable_reviews"]["share"] < 0.01


def test_corpus_without_slips_is_the_truth() -> None:
    task, rng = ArithmeticTask("train"), np.random.default_rng(0)
    for index in range(200):
        plan = task.plan(index)
        lines = solution_lines(plan, Slips(), rng, scale=0.0)
        assert lines == true_lines(plan)
        assert lines[-1] == f"#### {task.question(index).gold}"


def test_a_critique_names_the_first_failing_step_put_right() -> None:
    plan = Plan(17, (Step("gain", 38), Step("loss", 19)))
    assert review(plan, "17 + 38 = 55\n55 - 19 = 46\n#### 46", correct=False) == "WRONG\nStep 2: 55 - 19 = 36"
    assert review(plan, "17 + 38 = 55\n55 - 19 = 36\n#### 63", correct=False) == "WRONG\nStep 3: the answer is 36"
    assert review(plan, "17 + 38 = 55\n55 - 19 = 36\n#### 36", correct=True) == "RIGHT"
