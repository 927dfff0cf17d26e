"""The script that makes the tables of docs/results.md: gains, intervals, and which runs may stand in a table."""

import json

import numpy as np
import pytest

from benchmarks import results


def write_run(folder, before, after, settings=None):
    folder.mkdir()
    with open(folder / "episodes.jsonl", "w", encoding="utf-8") as file:
        for phase, right in (("before", before), ("after", after), ("train", [True] * 5)):
            for i, correct in enumerate(right):
                file.write(json.dumps({"phase": phase, "question_id": f"q{i}", "correct": bool(correct)}) + "\n")
    (folder / "config.json").write_text(json.dumps((settings or results.settings_of("recommended", 0)).to_json()))
    return folder


def test_one_seed_is_the_bootstrap_over_questions(tmp_path):
    rng = np.random.default_rng(1)
    before, after = rng.random(400) < 0.5, rng.random(400) < 0.7
    gain, low, high = results.paired_gain([write_run(tmp_path / "a", before, after)], "before", "after")
    difference = after.astype(float) - before
    half = 1.96 * difference.std() / 20  # the normal approximation
    assert gain == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((gain - half, gain + half), abs=0.01)


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    wrong, right = np.zeros(200), np.ones(200)
    folders = [write_run(tmp_path / "same", wrong, wrong), write_run(tmp_path / "better", wrong, right)]
    assert results.paired_gain(folders, "before", "after") == (0.5, 0.0, 1.0)  # no spread within a seed
    assert results.paired_gain(folders[1:], "before", "after") == (1.0, 1.0, 1.0)


def test_a_run_of_other_settings_is_in_no_table(tmp_path):
    settings = results.settings_of("paper", 3)
    folder = write_run(tmp_path / "a", [1], [1], settings)
    assert results.problem_with(folder, settings) == "not finished"
    (folder / "summary.json").write_text("{}")
    assert results.problem_with(folder, settings) is None
    assert "estimator" in results.problem_with(folder, results.settings_of("recommended", 3))
    assert "seed" in results.problem_with(folder, results.settings_of("paper", 4))
