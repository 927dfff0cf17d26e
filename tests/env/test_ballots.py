"""The weighted ballot: counted by hand, played on both faces, and voting rules as fixed policies of the game."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import SKIP, ToyTask, play_script, speak, toy_game

import tracer_env
from tracer_env import Action, Control, Role, Seat, Utterance, Verdict
from tracer_env.ballots import tally, verdict_weight
from tracer_env.errors import ConfigError
from tracer_env.testing import check_env, check_faces_agree
from tracer_env.types import Ballot, Turn

ROUND_NUMBERS = Ballot(prior=1.0, verdict=2.0)  # exact in binary, so that sums can be compared


def review(text, p_right=None):
    return Action(Control.SPEAK, Utterance(text, tokens_out=1, p_right=p_right))


def turns_of(*said):
    """Turns of one proposer and one reviewer; a review is a verdict, or (verdict, P(RIGHT))."""
    turns = []
    for k, what in enumerate(said):
        verdict, p_right = what if isinstance(what, tuple) else (what, None)
        if verdict in ("RIGHT", "WRONG", "unparsable"):
            parsed = None if verdict == "unparsable" else Verdict(verdict)
            turns.append(
                Turn(k, k, Seat(Role.REVIEWER, 0), Control.SPEAK, Utterance("", p_right=p_right), verdict=parsed)
            )
        else:
            answer = None if verdict == "?" else verdict
            turns.append(Turn(k, k, Seat(Role.PROPOSER, 0), Control.SPEAK, Utterance(""), answer=answer))
    return turns


def count(*said, ballot=ROUND_NUMBERS, standing=None):
    return tally(ballot, ToyTask(), turns_of(*said), standing)


# --- the count ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "leader", "margin", "votes"),
    [
        (["5"], "5", 1, 0),  # alone: its own score
        (["5", "RIGHT"], "5", 3, 1),
        (["5", "WRONG"], "5", -1, -1),
        (["5", "WRONG", "7"], "7", 2, 0),  # -1 against 1
        (["5", "5", "7", "RIGHT"], "7", 1, 1),  # 2 against 3
        (["5", "RIGHT", "7", "WRONG", "7"], "5", 3, 1),  # 3 against 0
        (["5", "RIGHT", "RIGHT", "7", "8"], "5", 4, 2),  # the next answer, and not the sum of the others
        (["5", "?", "WRONG", "WRONG"], "5", 1, 0),  # verdicts on an unparsable proposal weigh nothing
        (["5", "unparsable"], "5", 1, 0),
    ],
)
def test_counts_by_hand(said, leader, margin, votes):
    result = count(*said)
    assert (result.leader.answer, result.margin, result.votes) == (leader, margin, votes)


def test_no_valid_proposal_no_leader():
    assert count() is None
    assert count("?", "RIGHT") is None


def test_the_leader_is_the_earliest_proposal_of_its_answer():
    assert count("5", "7", "RIGHT", "5", "RIGHT", "7", "RIGHT").leader.index == 1


def test_a_tie_goes_to_the_standing_answer_and_then_to_the_earliest():
    assert count("5", "7").leader.answer == "5"
    assert count("5", "7", standing="7").leader.answer == "7"
    assert count("5", "7", standing="9").leader.answer == "5"
    assert count("5", "7").margin == count("5", "7", standing="7").margin == 0
    states = play_script(toy_game(decide="ballot", ballot=ROUND_NUMBERS, reviewers=0, rounds=4), 7, *map(speak, "5775"))
    assert [s.answer for s in states[1:]] == ["5", "5", "7", "7"]  # at 2 to 2 what stands stays


@given(st.permutations([("5", "RIGHT", "WRONG"), ("5",), ("7",), ("7",)]))
def test_equal_weights_tie_in_whatever_order_they_came(order):
    assert 0.49 + 0.49 + 1.39 - 1.39 != 0.49 + 0.49  # added one by one, rounding would decide
    said = list(itertools.chain(*order))
    result = count(*said, ballot=Ballot())
    assert (result.leader.answer, result.margin) == (said[0], 0.0)
    assert count(*said, ballot=Ballot(), standing="5").leader.answer == "5"
    assert count(*said, ballot=Ballot(), standing="7").leader.answer == "7"


answers, verdicts = st.sampled_from(["1", "2", "3", "?"]), st.sampled_from(["RIGHT", "WRONG", "unparsable"])
probabilities = st.none() | st.floats(0, 1)


@given(
    st.lists(st.tuples(answers, st.lists(st.tuples(verdicts, probabilities), max_size=3)), max_size=6),
    st.sampled_from([None, "1", "2"]),
)
def test_the_count_is_the_sum_of_its_definition(proposals, standing):
    ballot = Ballot(prior=0.25, intercept=-0.5, slope=0.75, verdict=1.5)
    said = [what for answer, reviews in proposals for what in (answer, *reviews)]
    scores = {}
    for answer, reviews in proposals:
        if answer == "?":
            continue
        score = ballot.prior
        for verdict, p in reviews:
            if verdict == "unparsable":
                continue
            if p is None:
                score += ballot.verdict if verdict == "RIGHT" else -ballot.verdict
            else:
                p = min(max(p, 0.001), 0.999)
                score += ballot.intercept + ballot.slope * math.log(p / (1 - p))
        scores[answer] = scores.get(answer, 0.0) + score
    result = count(*said, ballot=ballot, standing=standing)
    if not scores:
        assert result is None
        return
    ranked = sorted(scores.values(), reverse=True)
    assert scores[result.leader.answer] == pytest.approx(ranked[0], abs=1e-9)
    expected = ranked[0] if len(ranked) == 1 else ranked[0] - ranked[1]
    assert result.margin == pytest.approx(expected, abs=1e-9)


def test_calibration():
    turn = turns_of(("WRONG", 0.8))[0]
    assert verdict_weight(Ballot(), turn) == pytest.approx(math.log(4))  # P(RIGHT) counts, whatever was said
    assert verdict_weight(Ballot(intercept=0.5, slope=2.0), turn) == pytest.approx(0.5 + 2 * math.log(4))
    assert verdict_weight(Ballot(slope=0.0), turn) == 0.0
    sure = turns_of(("RIGHT", 1.0), ("WRONG", 0.0))
    assert [verdict_weight(Ballot(), t) for t in sure] == pytest.approx([math.log(999), -math.log(999)])
    assert [verdict_weight(Ballot(verdict=3.0), t) for t in turns_of("RIGHT", "WRONG")] == [3.0, -3.0]
    assert verdict_weight(Ballot(), turns_of(("unparsable", 0.9))[0]) == 0.0


@pytest.mark.parametrize(
    "weights", [{"slope": -0.1}, {"verdict": -1}, {"prior": math.nan}, {"intercept": math.inf}, {"prior": "1"}]
)
def test_weights_out_of_range(weights):
    with pytest.raises(ConfigError, match=f"ballot weight {next(iter(weights))}"):
        toy_game(decide="ballot", ballot=Ballot(**weights))
    with pytest.raises(ConfigError, match="on_invalid='replace'"):
        toy_game(decide="ballot", on_invalid="replace")


# --- whole games ----------------------------------------------------------------------------------------------------


def test_a_game_by_hand():
    game = toy_game(decide="ballot", ballot=ROUND_NUMBERS, rounds=7)
    script = [speak("?"), speak("WRONG"), speak("5"), speak("WRONG"), speak("7"), SKIP, speak("5")]
    states = play_script(game, 7, *script)
    assert [s.answer for s in states[1:]] == [None, None, "5", "5", "7", "7", "7"]
    assert [s.margin for s in states[1:]] == [0, 0, 1, -1, 2, 2, 1]
    assert [s.votes for s in states[1:]] == [0, 0, 0, -1, 0, 0, 0]
    assert [t.correct for t in states[-1].turns] == [False, True, False, True, True, None, False]
    assert states[-1].correct
    assert states[3].standing.turn == 2  # the unparsable proposal stood only until there was a valid one


def test_a_reviewer_judges_the_newest_proposal_and_not_the_leader():
    game = toy_game(decide="ballot", ballot=ROUND_NUMBERS)
    states = play_script(game, 7, speak("7"), speak("RIGHT"), speak("5"), speak("WRONG"))
    assert states[3].answer == "7"  # leads
    review_turn = states[4].turns[-1]
    assert (review_turn.standing_correct, review_turn.correct) == (False, True)
    assert (states[4].answer, states[4].votes) == ("7", 1)


def test_prompts_show_the_question_alone_or_what_is_judged():
    game = toy_game(decide="ballot", reviewers=2, proposers=2, rounds=6)
    script = [speak("5 it is"), speak("WRONG\nBad sum."), speak("7 or so"), SKIP, speak("?"), SKIP]
    states = play_script(game, 7, *script)
    proposer, reviewer = Seat(Role.PROPOSER, 0), Seat(Role.REVIEWER, 1)
    assert {game.prompt(state, proposer) for state in states} == {game.prompt(states[0], proposer)}
    after_second = game.prompt(states[3], reviewer)
    assert "7 or so" in after_second
    assert "standing answer 7 or so right?" in after_second
    assert "5 it is" not in after_second
    assert "Bad sum." not in after_second
    assert "standing answer (none) right?" in game.prompt(states[5], reviewer)
    assert "7 or so" not in game.prompt(states[5], reviewer)


def test_simultaneous_rounds_put_every_proposal_on_the_ballot():
    game = toy_game(decide="ballot", ballot=ROUND_NUMBERS, proposers=3, reviewers=2, schedule="simultaneous", rounds=3)
    states = play_script(
        game,
        7,
        (speak("5"), speak("5"), speak("7")),
        (speak("RIGHT"), speak("RIGHT")),  # both about 7, the newest
        (SKIP, SKIP, SKIP),  # in a ballot keeping is no proposal
    )
    assert [s.answer for s in states[1:]] == ["5", "7", "7"]
    assert [s.margin for s in states[1:]] == [1, 3, 3]


@pytest.mark.parametrize("rules", [{}, {"proposers": 2, "schedule": "simultaneous"}, {"reviewers": 0}])
@pytest.mark.parametrize("task", ["arithmetic", "simulated:default"])
def test_both_faces_play_ballots_alike(task, rules):
    settings = {"task": task, "decide": "ballot", "rounds": 7, "abstraction": "ballot", **rules}
    check_env(lambda: tracer_env.parallel_env(**settings))
    check_env(lambda: tracer_env.raw_env(**settings))
    check_faces_agree(lambda: tracer_env.raw_env(**settings), lambda: tracer_env.parallel_env(**settings))


# --- voting rules as policies of the game ---------------------------------------------------------------------------

POOL = 4  # proposals of each question


def drawn_texts(seed):
    """Proposals and verdicts of one question: answers 0 to 2 or unparsable, P(RIGHT) that may disagree."""
    rng = np.random.default_rng(seed)
    proposals = [str(x) if x < 3 else "?" for x in rng.integers(4, size=POOL)]
    reviews = [("RIGHT" if x < 0.5 else "WRONG", float(rng.random())) for x in rng.random(POOL)]
    return proposals, reviews


def play_policy(game, seed, policy, p_right=True):
    """Play a question whose texts are drawn; ``policy`` says SPEAK or not from the seat and what is public."""
    proposals, reviews = drawn_texts(seed)
    state = game.start(game.task.question(1))
    while not state.over:
        (seat,) = game.acting(state)
        newest = sum(t.spoke and t.seat.role is Role.PROPOSER for t in state.turns)
        if not policy(seat, state):
            action = SKIP
        elif seat.role is Role.PROPOSER:
            action = speak(proposals[newest])
        else:
            verdict, p = reviews[newest - 1]
            action = review(verdict, p if p_right else None)
        state = game.advance(state, {seat: action})
    return state


def most_frequent(said):
    """Count after every proposal: in a tie the answer that stood stays."""
    standing, counts = None, Counter()
    for answer in said:
        if answer != "?":
            counts[answer] += 1
            if standing is None or counts[answer] > counts[standing]:
                standing = answer
    return standing


def only_proposers(seat, state):
    return seat.role is Role.PROPOSER


@pytest.mark.parametrize("seed", range(12))
def test_self_consistency_is_that_reviewers_are_silent(seed):
    game = toy_game(decide="ballot", ballot=ROUND_NUMBERS, rounds=2 * POOL - 1)
    state = play_policy(game, seed, only_proposers)
    assert (state.calls_spent, state.answer) == (POOL, most_frequent(drawn_texts(seed)[0]))


@pytest.mark.parametrize("seed", range(12))
def test_adaptive_self_consistency_stops_at_a_margin(seed):
    def until_two_ahead(seat, state):
        return seat.role is Role.PROPOSER and (state.answer is None or state.margin < 2)

    state = play_policy(toy_game(decide="ballot", ballot=ROUND_NUMBERS, rounds=2 * POOL - 1), seed, until_two_ahead)
    drawn, asked, lead = drawn_texts(seed)[0], 0, 0
    while asked < POOL and lead < 2:
        asked += 1
        first, second = ([n for _, n in Counter(a for a in drawn[:asked] if a != "?").most_common(2)] + [0, 0])[:2]
        lead = first - second
    assert (state.calls_spent, state.answer) == (asked, most_frequent(drawn[:asked]))


@pytest.mark.parametrize("seed", range(12))
def test_verdict_weighted_voting_is_that_all_speak(seed):
    ballot = Ballot(prior=0.3, intercept=0.1, slope=0.8)
    state = play_policy(toy_game(decide="ballot", ballot=ballot, rounds=2 * POOL), seed, lambda seat, state: True)
    scores = {}
    for answer, (_, p) in zip(*drawn_texts(seed), strict=True):
        if answer != "?":
            scores[answer] = scores.get(answer, 0.0) + 0.3 + 0.1 + 0.8 * math.log(p / (1 - p))
    assert state.calls_spent == 2 * POOL
    assert state.answer == (max(scores, key=scores.get) if scores else None)


@pytest.mark.parametrize("seed", range(12))
def test_best_of_n_is_a_ballot_of_verdicts_alone(seed):
    """Without agreement: among different answers the one with the highest P(RIGHT) wins."""
    proposals, reviews = drawn_texts(seed)
    if len(set(proposals) - {"?"}) < len([a for a in proposals if a != "?"]):
        proposals = ["0", "1", "2", "?"]
    game = toy_game(decide="ballot", ballot=Ballot(prior=0.0), rounds=2 * POOL)
    state = game.start(game.task.question(1))
    for answer, (verdict, p) in zip(proposals, reviews, strict=True):
        state = game.advance(state, {Seat(Role.PROPOSER, 0): speak(answer)})
        state = game.advance(state, {Seat(Role.REVIEWER, 0): review(verdict, p)})
    best = max((p, a) for a, (_, p) in zip(proposals, reviews, strict=True) if a != "?")
    assert state.answer == best[1]


@pytest.mark.parametrize("seed", range(12))
def test_verdicts_without_probabilities_count_by_what_they_say(seed):
    game = toy_game(decide="ballot", ballot=ROUND_NUMBERS, rounds=2 * POOL)
    state = play_policy(game, seed, lambda seat, state: True, p_right=False)
    scores = Counter()
    for answer, (verdict, _) in zip(*drawn_texts(seed), strict=True):
        if answer != "?":
            scores[answer] += 1.0 + (2.0 if verdict == "RIGHT" else -2.0)
    assert state.answer is None if not scores else scores[state.answer] == max(scores.values())
