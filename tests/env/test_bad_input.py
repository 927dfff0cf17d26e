"""What is wrong with an argument is said in a sentence that tells the way out."""

import pytest

import tracer_env
import tracer_env.errors
from tracer_env import Batch, Costs, DifferenceRewards, Game, PotentialRewards, RewardKind, TracerRewards
from tracer_env.exact import belief_optimum, best_policy, build_tree, evaluate
from tracer_env.rewards import make_rewards

GAME = Game("simulated:default", rounds=3)
TREE = build_tree(GAME)
PROPOSER = GAME.rules.seats[0]


class Own(TracerRewards):
    """A scheme whose fields a test can spoil."""

    def __init__(self, **fields):
        for name, value in {"costs": Costs(), "name": "own", "kind": RewardKind.LOCAL, **fields}.items():
            object.__setattr__(self, name, value)


def batch():
    return Batch(GAME, [GAME.task.question(0)])


WRONG = {
    "a batch of a task": (lambda: Batch("simulated:default"), "a Game is needed here, not 'simulated:default'"),
    "a batch of the class": (lambda: Batch(Game), "not the class Game"),
    "a batch of indices": (lambda: Batch(GAME, [0, 1]), r"take game\.task\.question\(index\)"),
    "a branch of nothing": (lambda: batch().branch(None), r"take one of batch\.states"),
    "actions of no game": (lambda: batch().step({1: {}}), "no game 1; this batch has the games 0 to 0"),
    "actions that are none": (lambda: batch().step({0: 1}), r"game 0 needs a dict of tracer_env\.Action by Seat"),
    "controls for actions": (lambda: batch().step({0: {PROPOSER: 1}}), r"game 0 needs a dict of tracer_env\.Action"),
    "a tree of a name": (lambda: build_tree("simulated:default"), r"or take an environment's \.game"),
    "a tree of an environment": (lambda: build_tree(tracer_env.raw_env("simulated:default")), "a Game is needed"),
    "a search in a game": (lambda: best_policy(GAME), r"make one with tracer_env\.exact\.build_tree\(game\)"),
    "figures of a game": (lambda: evaluate(GAME, 0.5), r"make one with tracer_env\.exact\.build_tree\(game\)"),
    "a negative budget": (lambda: best_policy(TREE, node_budget=-1), "node_budget must be an integer of at least 0"),
    "a policy of another key": (lambda: evaluate(TREE, {(PROPOSER, "x"): 1.0}), "made for another abstraction"),
    "a belief of a name": (lambda: belief_optimum("default", GAME.rules), "a SimulatedTeam is needed here"),
    "no snapshot": (lambda: tracer_env.raw_env("simulated:default").restore(None), r"take what env\.snapshot\(\) ret"),
    "a turn before reset": (lambda: tracer_env.raw_env("simulated:default").last(), r"call reset\(\) first"),
    "a world too many": (lambda: Game("recorded:arithmetic-train").task.question(2000), "worlds 0 to 1999, not 2000"),
    "a negative question": (lambda: GAME.task.question(-1), "indices of at least 0, not -1"),
    "a folder": (lambda: Game("recorded:."), r"is a folder; a recording is one \.npz file"),
    "a capital": (lambda: Game("Recorded:arithmetic-test"), "Did you mean 'recorded:arithmetic-test'"),
    "a policy above 1": (lambda: DifferenceRewards(policy=3), "policy must be a probability of SPEAK or a callable"),
    "a seed of letters": (lambda: DifferenceRewards(seed="a"), "seed must be an integer of at least 0"),
    "no branches": (lambda: DifferenceRewards(branches=0), "branches must be an integer of at least 1"),
    "no costs": (lambda: PotentialRewards(costs=None), r"costs must be tracer_env\.Costs"),
    "a continuation of text": (lambda: PotentialRewards(continuation="on"), "continuation must be None or a callable"),
    "an own kind": (lambda: make_rewards(Own(kind="mine")), "unknown kind of reward scheme 'mine'"),
    "own costs": (lambda: make_rewards(Own(costs=0.1)), r"costs of reward scheme 'own' must be tracer_env\.Costs"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_way_out_is_told(what):
    call, match = WRONG[what]
    with pytest.raises((tracer_env.errors.TracerError, IndexError), match=match):
        call()


def test_a_batch_moves_no_game_when_one_cannot():
    games = Batch(GAME, [GAME.task.question(0), GAME.task.question(1)])
    speaks = {
        PROPOSER: tracer_env.Action(tracer_env.Control.SPEAK, games.game.utterances(games.states[0], PROPOSER)[0])
    }
    before = list(games.states)
    with pytest.raises(tracer_env.errors.ActionError, match="needs one action for each of"):
        games.step({0: speaks, 1: {}})
    assert games.states == before
    games.step({0: speaks, 1: speaks})
    assert all(len(state.turns) == 1 for state in games.states)


def test_a_number_is_a_policy_of_difference_rewards():
    game = Game("simulated:default", rounds=3, rewards=DifferenceRewards(policy=0.25))
    same = Game("simulated:default", rounds=3, rewards=DifferenceRewards(policy=lambda *_: 0.25))
    state = game.start(game.task.question(0))
    while seats := game.acting(state):
        said = {seat: tracer_env.Action(tracer_env.Control.SPEAK, game.utterances(state, seat)[0]) for seat in seats}
        after = game.advance(state, said)
        assert game.pay(state, after) == pytest.approx(same.pay(state, after))
        state = after
