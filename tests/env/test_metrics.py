"""Metrics (method.md, section 6), by hand, and the interval against a closed form."""

import numpy as np
import pytest
from toy import SKIP, play_script, speak, toy_game

from tracer_env import accuracy_interval, summarize
from tracer_env.metrics import bootstrap_interval


def final(gold, *script):
    return play_script(toy_game(), gold, *script)[-1]


def test_summary_by_hand():
    corrected = final(7, speak("5", 10), speak("WRONG\nx", 3), speak("7", 10), SKIP, SKIP)
    preserved = final(7, speak("7", 10), speak("RIGHT", 1), SKIP, SKIP, SKIP)
    corrupted = final(7, speak("7", 10), speak("WRONG", 2), speak("5", 10), SKIP, SKIP)
    stayed_wrong = final(7, speak("5", 10), speak("RIGHT", 1), SKIP, SKIP, SKIP)
    parse_failure = final(7, speak("?", 4), speak("hm", 1), speak("7", 10), SKIP, SKIP)
    figures = summarize([corrected, preserved, corrupted, stayed_wrong, parse_failure])
    assert figures["num_questions"] == 5
    assert figures["accuracy"] == 3 / 5
    assert figures["tokens_per_question"] == (23 + 11 + 22 + 11 + 15) / 5
    assert figures["calls_per_question"] == (3 + 2 + 3 + 2 + 3) / 5
    assert figures["first_accuracy"] == 2 / 5
    assert figures["correction"] == 1 / 2
    assert figures["preservation"] == 1 / 2
    assert figures["corruption"] == 1 / 2
    assert figures["first_unparsable"] == 1 / 5
    assert figures["final_invalid"] == 0
    assert figures["unparsable_per_call"] == 2 / 13
    assert figures["reviewer_tpr"] == 1 / 2  # RIGHT on right: preserved yes, corrupted no
    assert figures["reviewer_tnr"] == 1 / 2  # WRONG on wrong: corrected yes, stayed_wrong no; no answer is no error


def test_calling_no_answer_wrong_is_no_achievement_of_the_judge():
    for on_invalid in ("keep", "replace"):
        game = toy_game(on_invalid=on_invalid)
        state = play_script(game, 7, speak("?"), speak("WRONG"), speak("7"), speak("WRONG"), speak("?"))[-1]
        figures = summarize([state])
        assert figures["reviewer_tnr"] is None
        assert figures["reviewer_tpr"] == 0


def test_rates_without_a_case_are_none():
    figures = summarize([final(7, speak("7"), SKIP, SKIP, SKIP, SKIP)])
    assert figures["correction"] is None
    assert figures["reviewer_tnr"] is None
    with pytest.raises(ValueError, match="no episodes"):
        summarize([])


def test_wilson_interval_solves_its_equation():
    z = 1.959963984540054
    for right, n in ((0, 10), (7, 10), (333, 512), (512, 512)):
        for bound in accuracy_interval(right, n):
            assert (right / n - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n, abs=1e-12)


def test_bootstrap_interval_draws_questions_with_their_replicates():
    rng = np.random.default_rng(0)
    together = np.repeat(rng.normal(size=400), 2)  # replicates that tell nothing new
    low, high = bootstrap_interval(together, 2, np.random.default_rng(1))
    half = 1.96 * together[::2].std() / np.sqrt(400)
    assert (low, high) == pytest.approx((together.mean() - half, together.mean() + half), abs=0.01)
    apart = bootstrap_interval(together, 1, np.random.default_rng(1))
    assert apart[1] - apart[0] < 0.8 * (high - low)  # as if they were independent
    assert bootstrap_interval(np.full(6, 0.5), 3, rng) == (0.5, 0.5)
