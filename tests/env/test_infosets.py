"""Information sets and features: right keys, and nothing hidden in them."""

import numpy as np
import pytest
from toy import SKIP, play_script, speak, toy_game

from tracer_env import FEATURES, Utterance
from tracer_env.infosets import feature_vector, infoset_key


def keys(game, states):
    return [game.infoset(s, game.acting(s)[0]) for s in states if not s.over]


def test_paper_keys():
    game = toy_game()
    states = play_script(game, 7, speak("5"), speak("WRONG"), SKIP, speak("WRONG"), SKIP)
    assert keys(game, states) == [
        "proposer|no_pending|not_last",
        "reviewer|votes=0|not_last",
        "proposer|votes=-1|not_last",
        "reviewer|votes=-1|not_last",
        "proposer|votes=-2|last",
    ]
    assert keys(game, play_script(game, 7, speak("?")))[1] == "reviewer|invalid_pending|not_last"


def test_paper_key_is_absent_minded_and_round_key_is_not():
    script = [speak("5")] + [SKIP] * 6
    paper, rounds = toy_game(rounds=7), toy_game(rounds=7, abstraction="round")
    assert len(set(keys(paper, play_script(paper, 7, *script)))) < 7
    assert len(set(keys(rounds, play_script(rounds, 7, *script)))) == 7


def test_history_key_tells_agreement_but_not_the_answer():
    game = toy_game(abstraction="history")
    one = play_script(game, 7, speak("5"), speak("RIGHT"), speak("5"))
    other = play_script(game, 7, speak("6"), speak("RIGHT"), speak("6"))
    third = play_script(game, 7, speak("6"), speak("RIGHT"), speak("5"))
    assert keys(game, one) == keys(game, other)
    assert keys(game, one)[-1] == "reviewer_0|p0:a0,r0:right,p0:a0"
    assert keys(game, third)[-1] == "reviewer_0|p0:a0,r0:right,p0:a1"


def test_features_by_name():
    game = toy_game()
    solution = Utterance("5", tokens_out=12, mean_logprob=-0.5, min_logprob=-2.0)
    review = Utterance("WRONG", tokens_out=3, p_right=0.25)
    states = play_script(game, 7, speak("5")._replace(utterance=solution), speak("")._replace(utterance=review))
    seat = game.acting(states[-1])[0]
    named = dict(zip((f.name for f in FEATURES), feature_vector(game.rules, states[-1], seat), strict=True))
    assert named == {
        "is_reviewer": 0,
        "answer_stands": 1,
        "invalid_pending": 0,
        "votes": -1,
        "rounds_left": 2,
        "is_last": 0,
        "agreement": 1,
        "proposals": 1,
        "length": 12,
        "mean_logprob": -0.5,
        "min_logprob": -2,
        "logprob_known": 1,
        "p_right": 0.25,
        "p_right_known": 1,
        "tokens_spent": 15,
    }


@pytest.mark.parametrize("abstraction", ["paper", "round", "history"])
def test_nothing_a_controller_reads_depends_on_the_gold_answer(abstraction):
    game = toy_game(abstraction=abstraction)
    script = (speak("5"), speak("WRONG"), speak("7"), speak("RIGHT"))
    right, wrong = play_script(game, 7, *script), play_script(game, 9, *script)
    for a, b in zip(right, wrong, strict=True):
        seat = game.acting(a)[0]
        assert infoset_key(game.rules, a, seat, abstraction) == infoset_key(game.rules, b, seat, abstraction)
        assert np.array_equal(feature_vector(game.rules, a, seat), feature_vector(game.rules, b, seat))
        assert game.prompt(a, seat).replace("number is 7", "number is 9") == game.prompt(b, seat)
