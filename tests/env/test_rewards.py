"""Reward schemes (method.md, section 3), by hand."""

import math
from itertools import pairwise

import pytest
from toy import SKIP, ToyTask, play_script, speak, toy_game

import tracer_env
from tracer_env import Costs, OutcomeRewards, RewardKind, Role, Seat, TracerRewards
from tracer_env.errors import ConfigError, RewardError, UnknownNameError


def payments(game, states):
    rows = []
    for before, after in pairwise(states):
        pay = game.pay(before, after)
        rows.append([round(pay[seat], 10) for seat in game.rules.seats])
    return rows


def test_tracer_pays_roles_locally():
    game = toy_game()
    states = play_script(game, 7, speak("5"), speak("WRONG\nno"), speak("7"), speak("WRONG\nno"), SKIP)
    assert payments(game, states) == [[-1, 0], [0, 1], [1, 0], [0, -1], [1, 0]]


def test_tracer_skip_is_worth_the_standing_answer():
    game = toy_game()
    assert payments(game, play_script(game, 7, speak("5"), SKIP, SKIP))[1:] == [[0, -1], [-1, 0]]
    assert payments(game, play_script(game, 7, speak("7"), SKIP, SKIP))[1:] == [[0, 1], [1, 0]]


def test_unparsable_never_pays_more_than_wrong():  # flaw C15
    game = toy_game()
    assert payments(game, play_script(game, 7, speak("?")))[0] == [-1, 0]
    assert payments(game, play_script(game, 7, speak("7"), speak("Correct the sign")))[1] == [0, -1]
    lenient = toy_game(rewards=TracerRewards(unparsable=0.0))
    assert payments(lenient, play_script(lenient, 7, speak("7"), speak("maybe")))[1] == [0, 0]


def test_costs_by_scope():
    costs = Costs(per_call=0.1, per_1k_tokens=10)
    team = toy_game(rewards=TracerRewards(costs=costs))
    states = play_script(team, 7, speak("7", 20), speak("RIGHT", 5))
    assert payments(team, states) == [[0.7, -0.3], [-0.15, 0.85]]
    seat = toy_game(rewards=TracerRewards(costs=Costs(per_call=0.1, per_1k_tokens=10, scope="seat")))
    assert payments(seat, play_script(seat, 7, speak("7", 20), speak("RIGHT", 5))) == [[0.7, 0], [0, 0.85]]


def test_outcome_pays_the_team_return_to_everybody():
    game = toy_game(rewards=OutcomeRewards(costs=Costs(per_call=0.01)))
    states = play_script(game, 7, speak("5"), speak("WRONG"), speak("7"), SKIP, SKIP)
    rows = payments(game, states)
    assert [round(sum(column), 10) for column in zip(*rows, strict=True)] == [0.97, 0.97]
    assert game.team_return(states[-1]) == pytest.approx(0.97)
    with pytest.raises(ConfigError, match="whole episodes"):
        game.rewards.turn_reward(states[0], states[1].turns[0])


def test_returns_of_both_faces_equal_the_sum_of_payments():
    from tracer_env.testing import play_episode

    env = tracer_env.raw_env(ToyTask(), rewards=TracerRewards(costs=Costs(per_call=0.25)))
    returns = play_episode(env, seed=4)[-1]["returns"]
    state, total = env.dialogue, dict.fromkeys(env.possible_agents, 0.0)
    for turn in state.turns:
        local = env.game.rewards.turn_reward(_before(env.game, state, turn.index), turn)
        total[turn.seat.name] += local
        for agent in total:
            total[agent] -= 0.25 * turn.spoke
    assert returns == pytest.approx(total)


def _before(game, final, index):
    """The state before a turn, replayed from the transcript."""
    state = game.start(final.question)
    for turn in final.turns[:index]:
        state = game.advance(state, {turn.seat: tracer_env.Action(turn.control, turn.utterance)})
    return state


class _Broken:
    name, kind, costs = "broken", RewardKind.LOCAL, Costs()

    def turn_reward(self, before, turn):
        return math.nan

    def round_rewards(self, rules, before, turns, after):
        return {turn.seat: math.nan for turn in turns}


def test_a_class_is_not_an_object():
    with pytest.raises(ConfigError, match=r"pass TracerRewards\(\)"):
        toy_game(rewards=TracerRewards)


def test_rewards_that_are_not_finite_name_scheme_agent_and_turn():
    env = tracer_env.parallel_env(ToyTask(), rewards=_Broken())
    env.reset(seed=0)
    with pytest.raises(RewardError, match=r"'broken' paid nan to proposer_0 in round 0"):
        env.step({"proposer_0": {"control": 1, "utterance": "7"}})


def test_bad_settings():
    with pytest.raises(UnknownNameError, match="'outcome'"):
        toy_game(rewards="outcomes")
    with pytest.raises(ConfigError, match="round_rewards"):
        toy_game(rewards=object())
    with pytest.raises(ConfigError, match="per_call"):
        Costs(per_call=-1)
    with pytest.raises(UnknownNameError, match="'team'"):
        Costs(scope="teams")


@pytest.mark.parametrize(
    ("paid", "says"),
    [
        ({"proposer_0": 1.0}, "1.0 to 'proposer_0'"),
        ({Seat(Role.PROPOSER, 7): 1.0}, "1.0 to Seat"),
        ({"proposer_0": 1.0, "reviewer_0": 0.0}, "to 'proposer_0'"),
        ({Seat(Role.PROPOSER, 0): None}, "None to proposer_0"),
        (None, "paid None"),
        ([1.0, 2.0], "paid \\[1.0"),
    ],
)
def test_what_a_scheme_pays_is_checked(paid, says):
    class Careless(OutcomeRewards):
        def round_rewards(self, rules, before, turns, after):
            return paid

    game = toy_game(rewards=Careless())
    states = play_script(game, 7, speak("7"))
    with pytest.raises(RewardError, match=says):
        game.pay(*states)
