"""The rules (method.md, section 1), on hand-played games."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import SKIP, ToyTask, play_script, speak, toy_game

from tracer_env import Action, Control, Role, Seat, Utterance
from tracer_env.dialogue import clean_text, control_mask, count_words, is_last
from tracer_env.errors import ActionError, ConfigError, UnknownNameError


def names(game, states):
    return [[seat.name for seat in game.acting(state)] for state in states]


def test_last_answer_stands_and_skip_keeps():
    game = toy_game()
    states = play_script(game, 7, speak("5"), speak("WRONG\nno"), speak("7"), speak("RIGHT"), SKIP)
    assert [s.standing and s.standing.answer for s in states] == [None, "5", "5", "7", "7", "7"]
    assert [s.votes for s in states] == [0, 0, -1, 0, 1, 1]
    assert states[-1].over
    assert states[-1].correct
    assert not states[-1].truncated
    assert (states[-1].calls_spent, states[-1].tokens_spent) == (4, 4)


def test_votes_stay_when_the_same_answer_is_proposed_again():
    states = play_script(toy_game(), 7, speak("5"), speak("WRONG"), speak("5"))
    assert states[-1].votes == -1
    assert states[-1].standing.turn == 2  # but the newest text stands


def test_votes_on_nothing_end_with_the_first_proposal():
    seats = (Seat(Role.REVIEWER, 0), Seat(Role.PROPOSER, 0), Seat(Role.PROPOSER, 0))
    game = toy_game(rounds=3, schedule=lambda rules, state: (seats[state.round],))
    states = play_script(game, 7, speak("RIGHT"), speak("?"), speak("?"))
    assert [(s.votes, s.standing is None) for s in states[1:]] == [(1, True), (0, False), (0, False)]


def test_unparsable_proposal_keeps_a_valid_answer():  # flaw C16
    states = play_script(toy_game(), 7, speak("7"), SKIP, speak("?"))
    assert states[-1].standing.answer == "7"
    assert states[-1].turns[-1].invalid
    assert states[-1].tokens_spent == 2
    replaced = play_script(toy_game(on_invalid="replace"), 7, speak("7"), SKIP, speak("?"))
    assert replaced[-1].standing.answer is None
    assert not replaced[-1].correct


def test_skip_is_masked_until_an_answer_stands():
    game = toy_game()
    proposer, reviewer = Seat(Role.PROPOSER, 0), Seat(Role.REVIEWER, 0)
    states = play_script(game, 7, speak("?"), SKIP, Action(Control.SKIP, Utterance("7")))
    assert control_mask(states[0], proposer) == (False, True)
    assert control_mask(states[0], reviewer) == (True, True)
    assert states[1].standing.answer is None  # an invalid answer is pending, none stands
    assert control_mask(states[2], proposer) == (False, True)
    assert states[3].turns[-1].control is Control.SPEAK  # the masked SKIP was played as SPEAK of its text
    assert states[3].turns[-1].control_corrected
    assert states[3].correct


def test_round_robin_schedule():
    game = toy_game(proposers=3, reviewers=2, rounds=8)
    states = play_script(game, 7, *[speak(t) for t in ("1", "WRONG", "2", "WRONG", "3", "WRONG", "4", "WRONG")])
    assert names(game, states[:-1]) == [
        ["proposer_0"],
        ["reviewer_1"],  # never of the author's bundle when there is another
        ["proposer_1"],
        ["reviewer_0"],
        ["proposer_2"],
        ["reviewer_0"],  # review round 2 of candidates (0, 1)
        ["proposer_0"],
        ["reviewer_1"],
    ]


def test_without_reviewers_every_round_proposes():
    game = toy_game(proposers=2, reviewers=0, rounds=3)
    states = play_script(game, 7, speak("1"), speak("2"), speak("3"))
    assert names(game, states[:-1]) == [["proposer_0"], ["proposer_1"], ["proposer_0"]]


def test_reference_schedule_leaves_half_of_an_even_team_silent():  # flaw C3, kept for comparison
    game = toy_game(proposers=2, reviewers=2, rounds=4, schedule="reference")
    states = play_script(game, 7, speak("1"), speak("WRONG"), speak("2"), speak("RIGHT"))
    assert names(game, states[:-1]) == [["proposer_0"], ["reviewer_1"], ["proposer_0"], ["reviewer_1"]]
    with pytest.raises(ConfigError, match="as many proposers as reviewers"):
        toy_game(proposers=2, reviewers=1, schedule="reference")


def test_simultaneous_ballots():
    game = toy_game(proposers=3, reviewers=0, rounds=3, schedule="simultaneous")
    states = play_script(game, 7, (speak("1"), speak("7"), speak("7")))
    assert states[-1].standing.answer == "7"  # two ballots against one
    assert states[-1].standing.seat.index == 1  # the earliest seat of the winning cluster
    kept = play_script(game, 7, (speak("1"), speak("7"), speak("7")), (speak("2"), SKIP, speak("3")))
    assert kept[-1].standing.answer == "7"  # one ballot each: the tie goes to the standing answer
    tie = play_script(game, 7, (speak("4"), speak("5"), speak("6")))
    assert tie[-1].standing.answer == "4"  # no answer stands: the earliest seat


def test_an_invalid_answer_never_wins_a_tie_under_replace():
    game = toy_game(proposers=2, reviewers=0, schedule="simultaneous", on_invalid="replace")
    states = play_script(game, 7, (speak("?"), speak("7")), (speak("?"), speak("?")), (speak("?"), speak("7")))
    assert [s.standing and s.standing.answer for s in states] == [None, "7", None, "7"]


def test_simultaneous_reviews_all_vote_on_the_same_answer():
    game = toy_game(proposers=1, reviewers=3, rounds=3, schedule="simultaneous")
    states = play_script(game, 7, speak("7"), (speak("RIGHT"), speak("RIGHT"), speak("WRONG\nbad")))
    assert states[-1].votes == 1


def test_callable_schedule_is_checked():
    game = toy_game(schedule=lambda rules, state: ())
    with pytest.raises(ConfigError, match="schedule returned"):
        game.acting(game.start(game.task.question(1)))
    only_proposer = toy_game(schedule=lambda rules, state: (Seat(Role.PROPOSER, 0),), rounds=2)
    assert play_script(only_proposer, 3, speak("3"), SKIP)[-1].correct


def test_early_ends():
    skips = toy_game(stop_after_skips=2)
    states = play_script(skips, 7, speak("7"), SKIP, SKIP)
    assert states[-1].over
    assert not states[-1].truncated
    votes = toy_game(stop_at_votes=1)
    assert play_script(votes, 7, speak("7"), speak("RIGHT"))[-1].over
    budget = toy_game(token_budget=10)
    states = play_script(budget, 7, speak("7", 4), speak("RIGHT", 6))
    assert states[-1].over
    assert states[-1].truncated


def test_last_means_that_no_proposal_round_follows():
    game = toy_game(rounds=6)
    states = play_script(game, 7, *[speak("7")] * 6)
    assert [is_last(game.rules, s) for s in states[:-1]] == [False, False, False, False, True, True]


def test_verdict_on_no_answer_is_about_a_missing_answer():
    states = play_script(toy_game(), 7, speak("?"), speak("WRONG\nno answer"))
    assert states[-1].turns[-1].correct


@pytest.mark.parametrize(
    ("setting", "value"),
    [("proposers", 0), ("reviewers", -1), ("rounds", 0), ("rounds", True), ("proposers", 1.5), ("token_budget", 0)],
)
def test_counts_out_of_range(setting, value):
    with pytest.raises(ConfigError, match=setting):
        toy_game(**{setting: value})


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="'round_robin'"):
        toy_game(schedule="round-robin")
    with pytest.raises(UnknownNameError, match="'keep'"):
        toy_game(on_invalid="kep")
    with pytest.raises(UnknownNameError, match="'proposers'"):
        toy_game(proposer=2)
    with pytest.raises(UnknownNameError, match="'paper'"):
        toy_game(abstraction="papers")


def test_joint_action_must_cover_exactly_the_acting_seats():
    game = toy_game()
    state = game.start(game.task.question(1))
    with pytest.raises(ActionError, match="proposer_0"):
        game.advance(state, {Seat(Role.REVIEWER, 0): speak("RIGHT")})
    over = play_script(game, 7, *[speak("7")] * 5)[-1]
    with pytest.raises(ActionError, match=r"over; call reset"):
        game.advance(over, {Seat(Role.PROPOSER, 0): speak("7")})


def test_text_rule():
    assert clean_text("abc", 10) == ("abc", False)
    assert clean_text("a" * 60 + "b" * 60, 100) == ("a" * 50 + "b" * 50, True)
    assert clean_text("x\ud800y", 10) == ("x\ufffdy", True)
    assert clean_text("ok 👍", 10) == ("ok 👍", False)


@given(st.text(st.characters(), max_size=300), st.integers(2, 100))
@settings(max_examples=300)
def test_text_rule_always_gives_encodable_text_within_the_limit(text, limit):
    clean, changed = clean_text(text, limit)
    assert len(clean) <= limit
    clean.encode("utf-8")
    assert changed == (clean != text)


def test_plain_text_is_counted_and_flagged():
    game = toy_game()
    states = play_script(game, 7, Action(Control.SPEAK, Utterance("seven, or 7")))
    turn = states[-1].turns[0]
    assert turn.tokens_estimated
    assert turn.tokens_out == count_words("seven, or 7") == 4
    own = toy_game(count_tokens=len)
    assert play_script(own, 7, Action(Control.SPEAK, Utterance("abc")))[-1].tokens_spent == 3


def test_states_can_be_branched_by_keeping_them():
    game = toy_game()
    before = play_script(game, 7, speak("7"), speak("WRONG"))[-1]
    seat = game.acting(before)[0]
    kept, changed = game.advance(before, {seat: SKIP}), game.advance(before, {seat: speak("8")})
    assert (kept.standing.answer, changed.standing.answer, len(before.turns)) == ("7", "8", 2)


def test_task_protocol_is_what_the_toy_implements():
    from tracer_env.testing import check_task

    check_task(ToyTask())
