"""Batches: many games stepped together are the same games stepped one by one."""

import numpy as np
import pytest
from toy import ToyTask

from tracer_env import Action, Batch, Control, Game, Utterance
from tracer_env.errors import ActionError

TEAMS = [{}, {"proposers": 2, "reviewers": 3, "schedule": "simultaneous"}, {"stop_after_skips": 1, "reviewers": 0}]


def written(state, seat, seed):
    """What a seat does depends on the game, the round and the seat alone."""
    rng = np.random.default_rng([seed, int(state.question.gold), state.round, sum(map(ord, seat.name))])
    return Action(Control(int(rng.random() < 0.6)), Utterance(str(rng.choice(["1", "2", "RIGHT", "WRONG", "?"]))))


@pytest.mark.parametrize("settings", TEAMS)
def test_the_same_games_as_one_by_one(settings):
    game = Game(ToyTask(), **settings)
    asked = [game.task.question(k) for k in range(12)]
    alone = []
    for question in asked:
        state = game.start(question)
        while not state.over:
            state = game.advance(state, {seat: written(state, seat, 0) for seat in game.acting(state)})
        alone.append(state)
    batch, rounds, paid = Batch(game, asked), 0, [0.0] * len(asked)
    while acting := batch.acting():
        assert {k for k, _ in acting} == set(batch.live())
        actions = {k: {} for k, _ in acting}
        for k, seat in acting:
            actions[k][seat] = written(batch.states[k], seat, 0)
        for k, transition in batch.step(actions).items():
            paid[k] += sum(game.pay(*transition).values())
        rounds += 1
    assert batch.states == alone
    assert rounds == max(state.round for state in alone)
    assert any(paid)


def test_a_branch_is_one_more_game():
    game = Game(ToyTask())
    batch = Batch(game, [game.task.question(5)])
    (seat,) = game.acting(batch.states[0])
    batch.step({0: {seat: Action(Control.SPEAK, Utterance("5"))}})
    assert batch.branch(batch.states[0]) == 1
    (reviewer,) = game.acting(batch.states[0])
    batch.step({0: {reviewer: Action(Control.SKIP)}, 1: {reviewer: Action(Control.SPEAK, Utterance("RIGHT"))}})
    assert [state.votes for state in batch.states] == [0, 1]
    assert batch.states[0].turns[0] is batch.states[1].turns[0]
    assert batch.acting([1]) == [(1, seat)]


def test_a_bad_action_moves_no_game():
    game = Game(ToyTask())
    batch = Batch(game, [game.task.question(k) for k in range(2)])
    (seat,) = game.acting(batch.states[0])
    before = list(batch.states)
    with pytest.raises(ActionError, match="needs one action"):
        batch.step({0: {seat: Action(Control.SPEAK, Utterance("5"))}, 1: {}})
    assert batch.states == before
