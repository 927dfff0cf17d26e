"""Simulated teams: what is said has the stated probabilities, and short games have returns in closed form."""

import copy
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import tracer_env
from tracer_env import Action, Control, Game, Role, Seat, Utterance, Verdict
from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.exact import build_tree, evaluate
from tracer_env.rewards import Costs, OutcomeRewards
from tracer_env.tasks.simulated import SIMULATED_TEAMS, SimulatedTask, SimulatedTeam, last_verdict
from tracer_env.testing import check_env, check_faces_agree, check_task

RIGHT, WRONG = Verdict.RIGHT, Verdict.WRONG
REVISED = {
    (True, None): 0.80, (True, RIGHT): 0.90, (True, WRONG): 0.65,
    (False, None): 0.35, (False, RIGHT): 0.15, (False, WRONG): 0.50,
}  # fmt: skip
TEAM = SimulatedTeam(
    first_right=0.6,
    revised_right=REVISED,
    says_right_if_right=0.85,
    says_wrong_if_wrong=0.7,
    persistence=0.4,
    common_wrong=0.25,
    invalid=0.1,
    unparsable=0.05,
)
PROPOSER, REVIEWER = Seat(Role.PROPOSER, 0), Seat(Role.REVIEWER, 0)
CHI_SQUARE = {1: 15.14, 2: 18.42, 3: 21.11}  # quantiles 0.9999 by degrees of freedom
NUMBER = 4000


def game_of(team=TEAM, **rules):
    return Game(SimulatedTask(team), **rules)


def after(game, *said):
    """Return the state of question 0 after texts of the acting seats, None for SKIP."""
    from tracer_env.dialogue import advance  # the game itself would replace the texts by its own

    state = game.start(game.task.question(0))
    for text in said:
        action = Action(Control.SKIP) if text is None else Action(Control.SPEAK, Utterance(text, tokens_out=1))
        state = advance(game.rules, game.task, state, {game.acting(state)[0]: action})
    return state


def classes(game, state, seat, pairs):
    """Add probabilities up by what is said: a proposal's kind of answer, or a verdict."""
    total = Counter()
    for weight, utterance in pairs:
        if seat.role is Role.REVIEWER:
            kind = {"RIGHT": "RIGHT", "WRONG": "WRONG"}.get(str(utterance), "unparsable")
        else:
            answer = game.task.extract_answer(utterance)
            kind = {None: "invalid", state.question.gold: "right", "2": "common"}.get(answer, "other")
        total[kind] += weight
    return total


def proposal_rates(p_right):
    return {"right": 0.9 * p_right, "common": 0.9 * (1 - p_right) * 0.25, "other": 0.9 * (1 - p_right) * 0.75,
            "invalid": 0.1}  # fmt: skip


def review_rates(says_right):
    return {"RIGHT": 0.95 * says_right, "WRONG": 0.95 * (1 - says_right), "unparsable": 0.05}


STATES = {
    "first proposal": ((), proposal_rates(0.6)),
    "right, no verdict": (("#### 1", None), proposal_rates(0.8)),
    "right, said RIGHT": (("#### 1", "RIGHT"), proposal_rates(0.9)),
    "right, said WRONG": (("#### 1", "WRONG"), proposal_rates(0.65)),
    "wrong, no verdict": (("#### 2", None), proposal_rates(0.35)),
    "wrong, unparsable verdict": (("#### 2", "Perhaps."), proposal_rates(0.35)),
    "wrong, said RIGHT": (("#### 7", "RIGHT"), proposal_rates(0.15)),
    "wrong, said WRONG": (("#### 2", "WRONG"), proposal_rates(0.5)),
    "wrong, said WRONG before an unparsable verdict": (("#### 2", "WRONG", None, "?"), proposal_rates(0.5)),
    "nothing stands": (("I do not know.", "WRONG"), proposal_rates(0.6)),
    "a new proposal starts anew": (("#### 2", "WRONG", "#### 2", None), proposal_rates(0.35)),
    "review of a right answer": (("#### 1",), review_rates(0.85)),
    "review of a wrong answer": (("#### 2",), review_rates(0.3)),
    "review of no answer": (("I do not know.",), review_rates(0.3)),
    "right again, said RIGHT": (("#### 1", "RIGHT", None), review_rates(0.4 + 0.6 * 0.85)),
    "right again, said WRONG": (("#### 1", "WRONG", None), review_rates(0.6 * 0.85)),
    "wrong again, said RIGHT": (("#### 2", "RIGHT", None), review_rates(0.4 + 0.6 * 0.3)),
    "wrong again, said WRONG": (("#### 2", "WRONG", "I do not know."), review_rates(0.6 * 0.3)),
    "the same answer proposed again": (("#### 2", "RIGHT", "#### 2"), review_rates(0.3)),
}


@pytest.mark.parametrize("name", STATES)
def test_stated_probabilities(name):
    said, rates = STATES[name]
    game = game_of(rounds=7)
    state = after(game, *said)
    (seat,) = game.acting(state)
    outcomes = game.task.outcomes(game.rules, state, seat)
    assert sum(p for p, _ in outcomes) == pytest.approx(1.0, abs=1e-12)
    assert classes(game, state, seat, outcomes) == pytest.approx(rates, abs=1e-12)


@pytest.mark.parametrize("name", STATES)
def test_what_is_said_has_these_frequencies(name):
    """Pearson's chi-square over many questions; the draws are fixed, so that the test always gives the same."""
    said, rates = STATES[name]
    game = game_of(rounds=7)
    state = after(game, *said)
    (seat,) = game.acting(state)
    states = [state._replace(question=game.task.question(k)) for k in range(NUMBER)]
    drawn = [(1.0, game.utterances(s, seat)[0]) for s in states]
    seen = classes(game, state, seat, drawn)
    assert set(seen) == set(rates)
    statistic = sum((seen[kind] - NUMBER * p) ** 2 / (NUMBER * p) for kind, p in rates.items())
    assert statistic < CHI_SQUARE[len(rates) - 1]


def test_tokens_depend_on_what_is_said():
    game = game_of(replace(TEAM, proposal_tokens=40, right_tokens=3, wrong_tokens=20), rounds=3)
    tokens = {u: u.tokens_out for _, u in game.task.outcomes(game.rules, after(game, "#### 1"), REVIEWER)}
    assert tokens == {"RIGHT": 3, "WRONG": 20, "Perhaps.": 20}
    assert {u.tokens_out for _, u in game.task.outcomes(game.rules, after(game), PROPOSER)} == {40}


def test_impossible_outcomes_are_left_out():
    game = game_of(SimulatedTeam(first_right=1.0, invalid=0.0), rounds=3)
    assert game.task.outcomes(game.rules, after(game), PROPOSER) == [(1.0, "#### 1")]
    assert len(game.task.outcomes(game.rules, after(game, "#### 1"), REVIEWER)) == 2


def play(game, index, speaks):
    state = game.start(game.task.question(index))
    for spoken in speaks:
        control = Control.SPEAK if spoken else Control.SKIP
        state = game.advance(state, {seat: Action(control) for seat in game.acting(state)})
    return state


def test_the_judges_error_persists():
    """Two reviews of one answer: the second repeats the first with p + (1 - p) x rate."""
    always = game_of(replace(TEAM, persistence=1.0, invalid=0.0, unparsable=0.0), rounds=4)
    verdicts = [[t.verdict for t in play(always, k, (1, 1, 0, 1)).turns if t.verdict] for k in range(200)]
    assert all(first == second for first, second in verdicts)
    assert len({first for first, _ in verdicts}) == 2
    game = game_of(replace(TEAM, invalid=0.0, unparsable=0.0), rounds=4)
    counts = Counter()
    for k in range(NUMBER):
        first, second = (t for t in play(game, k, (1, 1, 0, 1)).turns if t.verdict)
        counts[first.standing_correct, first.verdict, second.verdict] += 1
    for right, rate in ((True, 0.85), (False, 0.3)):
        for said, fresh in ((RIGHT, rate), (WRONG, 1 - rate)):
            n, repeated = counts[right, said, RIGHT] + counts[right, said, WRONG], counts[right, said, said]
            p = 0.4 + 0.6 * fresh
            assert abs(repeated - n * p) < 4 * np.sqrt(n * p * (1 - p)), (right, said)


def test_draws_of_different_rounds_and_seats_are_independent():
    game = game_of(replace(TEAM, invalid=0.0), proposers=2, reviewers=0, rounds=2, schedule="simultaneous",
                   decide="ballot")  # fmt: skip
    right = np.array([[t.correct for t in play(game, k, (1, 1)).turns] for k in range(NUMBER)], dtype=float)
    assert np.abs(right.mean(axis=0) - 0.6).max() < 4 * np.sqrt(0.6 * 0.4 / NUMBER)
    correlation = np.corrcoef(right.T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(NUMBER)


def test_a_ballots_proposals_do_not_depend_on_what_was_said():
    game = game_of(rounds=7, decide="ballot")
    for said in ((), ("#### 2", "WRONG"), ("#### 1", "RIGHT", "#### 2", "WRONG")):
        state = after(game, *said)
        assert classes(game, state, PROPOSER, game.task.outcomes(game.rules, state, PROPOSER)) == pytest.approx(
            proposal_rates(0.6)
        )
    # the newest proposal is judged, and its own verdict persists
    state = after(game, "#### 1", "RIGHT", "#### 2")
    assert classes(game, state, REVIEWER, game.task.outcomes(game.rules, state, REVIEWER)) == pytest.approx(
        review_rates(0.3)
    )
    assert last_verdict(game.rules, state) is None
    assert last_verdict(game.rules, after(game, "#### 1", "RIGHT")) is RIGHT


# --- the same question is always the same ---------------------------------------------------------------------------


def test_every_question_has_its_own_fixed_draws():
    controls = (1, 1, 1, 0, 1)
    one, two = (Game("simulated:default") for _ in range(2))
    texts = [[str(t.utterance) for t in play(one, k, controls).turns] for k in range(50)]
    assert texts == [[str(t.utterance) for t in play(two, k, controls).turns] for k in reversed(range(50))][::-1]
    assert len(set(map(tuple, texts))) > 10
    first = [texts[k][0].removeprefix("#### ") for k in range(12)]
    assert first == [
        "2",
        "1",
        "1",
        "1000",
        "1",
        "1",
        "1",
        "1000",
        "2",
        "1000",
        "1000",
        "1000",
    ]  # in every process, for ever


def test_common_random_numbers_when_one_control_changes():
    """What is said later depends on earlier controls through the standing answer and its verdict only."""
    game = game_of(replace(TEAM, invalid=0.0), rounds=5)
    for k in range(50):
        spoke, silent = play(game, k, (1, 1, 0, 0, 1)), play(game, k, (1, 1, 0, 1, 1))
        if last_verdict(game.rules, play(game, k, (1, 1, 0, 1))) is last_verdict(
            game.rules, play(game, k, (1, 1, 0, 0))
        ):
            assert spoke.turns[-1].utterance == silent.turns[-1].utterance


def test_task_contract_faces_and_copies():
    check_task(SimulatedTask())
    for name in SIMULATED_TEAMS:
        settings = {"task": f"simulated:{name}", "rounds": 5}
        check_env(lambda settings=settings: tracer_env.parallel_env(**settings))
        check_faces_agree(
            lambda settings=settings: tracer_env.raw_env(**settings),
            lambda settings=settings: tracer_env.parallel_env(**settings),
        )
    game = game_of(rounds=3)
    for copied in (pickle.loads(pickle.dumps(game)), copy.deepcopy(game)):  # as vector environments do
        assert copied.task.team == TEAM
        assert play(copied, 3, (1, 1, 1)) == play(game, 3, (1, 1, 1))
    with pytest.raises(IndexError):
        SimulatedTask().question(-1)


def test_texts_of_actions_are_ignored():
    game = game_of(rounds=3)
    state = game.start(game.task.question(0))
    spoken = game.advance(state, {PROPOSER: Action(Control.SPEAK, Utterance("#### 99"))})
    assert spoken == game.advance(state, {PROPOSER: Action(Control.SPEAK)})
    masked = game.advance(state, {PROPOSER: Action(Control.SKIP, Utterance("#### 99"))})
    assert masked.turns[0].control_corrected
    assert masked.turns[0].utterance == spoken.turns[0].utterance


# --- errors ---------------------------------------------------------------------------------------------------------


def test_an_unknown_team_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown simulated team 'good_judge'.*Did you mean 'good-judge'"):
        Game("simulated:good_judge")
    with pytest.raises(ConfigError, match="data_dir"):
        Game("simulated:default", data_dir="somewhere")
    with pytest.raises(ConfigError, match="split"):
        Game("simulated:default", split="test")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("first_right", 1.1),
        ("persistence", -0.1),
        ("invalid", float("nan")),
        ("proposal_tokens", -1),
        ("right_tokens", 2.0),
        ("wrong_tokens", True),
        ("revised_right", {(True, None): 0.5}),
        ("revised_right", {**REVISED, (True, None): 2.0}),
    ],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(ConfigError, match=field):
        SimulatedTeam(**{field: value})


def test_a_team_keeps_its_own_copy_of_the_probabilities():
    revised = dict(REVISED)
    team = SimulatedTeam(revised_right=revised)
    revised[True, None] = 0.0
    assert team.revised_right[True, None] == 0.8
    with pytest.raises(TypeError):
        team.revised_right[True, None] = 0.0


# --- returns in closed form -----------------------------------------------------------------------------------------

COSTS = Costs(per_call=0.03, per_1k_tokens=0.5)
A_RIGHT, A_WRONG, NOTHING = 0.9 * 0.6, 0.9 * 0.4, 0.1  # after the first proposal


def expected_return(rounds, policy):
    """E[U] from the exact module."""
    return evaluate(build_tree(game_of(rounds=rounds, rewards=OutcomeRewards(costs=COSTS))), policy)


def reviewed(p_right_standing, says_right):
    """P(right) of the next parsable proposal after a review."""
    rates = {RIGHT: 0.95 * says_right, WRONG: 0.95 * (1 - says_right), None: 0.05}
    return sum(rate * REVISED[p_right_standing, verdict] for verdict, rate in rates.items())


def review_cost():
    """Expected cost of the first review: 2 tokens for RIGHT, else 16; no answer is judged as a wrong one."""
    said_right = 0.95 * (A_RIGHT * 0.85 + (A_WRONG + NOTHING) * 0.3)
    return 0.03 + 0.0005 * (2 * said_right + 16 * (1 - said_right))


def test_one_round():
    figures = expected_return(1, 1.0)
    assert figures.team_return == pytest.approx(2 * A_RIGHT - 1 - 0.03 - 0.0005 * 48, abs=1e-12)
    assert figures.accuracy == pytest.approx(A_RIGHT, abs=1e-12)
    assert (figures.calls_per_question, figures.tokens_per_question) == pytest.approx((1, 48))
    assert (figures.correction, figures.preservation) == (0.0, 1.0)


def test_two_rounds():
    """A last review changes nothing and costs its tokens."""
    silent, spoken = expected_return(2, 0.0), expected_return(2, 1.0)
    assert silent.team_return == pytest.approx(2 * A_RIGHT - 1 - 0.03 - 0.0005 * 48, abs=1e-12)
    assert spoken.team_return == pytest.approx(silent.team_return - review_cost(), abs=1e-12)
    assert expected_return(2, 0.25).team_return == pytest.approx(silent.team_return - review_cost() / 4, abs=1e-12)


def test_three_rounds():
    call = 0.03 + 0.0005 * 48
    # nobody speaks again, but where nothing stands the proposer has to
    right = A_RIGHT + NOTHING * 0.9 * 0.6
    assert expected_return(3, 0.0).team_return == pytest.approx(2 * right - 1 - call * (1 + NOTHING), abs=1e-12)
    # the proposer speaks alone
    right = A_RIGHT * (0.1 + 0.9 * 0.8) + A_WRONG * 0.9 * 0.35 + NOTHING * 0.9 * 0.6
    alone = expected_return(3, lambda seat, key, features, mask: float(seat.role is Role.PROPOSER))
    assert alone.team_return == pytest.approx(2 * right - 1 - 2 * call, abs=1e-12)
    assert alone.preservation == pytest.approx(0.1 + 0.9 * 0.8, abs=1e-12)
    assert alone.correction == pytest.approx(0.9 * 0.35, abs=1e-12)
    # all speak
    kept, found = 0.1 + 0.9 * reviewed(True, 0.85), 0.9 * reviewed(False, 0.3)
    right = A_RIGHT * kept + A_WRONG * found + NOTHING * 0.9 * 0.6
    all_speak = expected_return(3, 1.0)
    assert all_speak.team_return == pytest.approx(2 * right - 1 - 2 * call - review_cost(), abs=1e-12)
    assert (all_speak.preservation, all_speak.correction) == pytest.approx((kept, found), abs=1e-12)


@pytest.mark.parametrize("rules", [{"rounds": 5}, {"rounds": 5, "decide": "ballot"}])
def test_playing_questions_agrees_with_the_exact_return(rules):
    game = game_of(**rules)
    exact = evaluate(build_tree(game), 1.0)
    states = [play(game, k, [1] * 5) for k in range(2000)]
    returns = np.array([game.team_return(state) for state in states])
    tokens = np.array([state.tokens_spent for state in states])
    for values, mean in ((returns, exact.team_return), (tokens, exact.tokens_per_question)):
        assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(len(values))
