"""The control view: compliance, the same game as the environment's, masks and rewards, and the single seat."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test
from pettingzoo.test.state_test import state_test
from toy import ToyTask

import tracer_env
from tracer_env import FEATURES, Control, Costs, OutcomeRewards, Role
from tracer_env.errors import ActionError, ConfigError, UnknownNameError
from tracer_env.exact import build_tree, evaluate
from tracer_env.wrappers import FEATURE_UNITS, control_view, scale_features

REWARDS = OutcomeRewards(costs=Costs(per_1k_tokens=2.0))
GAMES = {
    "default": {},
    "together": {"proposers": 2, "reviewers": 2, "schedule": "simultaneous", "rounds": 3},
    "budget": {"token_budget": 100},
    "alone": {"reviewers": 0, "rounds": 2},
}
FACES = [tracer_env.env, tracer_env.raw_env, tracer_env.parallel_env]


def make(face, game="default", **settings):
    return face(task="simulated:default", rewards=REWARDS, **GAMES[game], **settings)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("mask", ["observation", "info"])
@pytest.mark.filterwarnings("ignore")  # their checks warn of unbounded spaces
def test_the_views_pass_the_checks_of_pettingzoo_and_gymnasium(game, mask):
    for face in (tracer_env.env, tracer_env.raw_env):
        api_test(control_view(make(face, game), mask=mask), num_cycles=50)
    parallel_api_test(control_view(make(tracer_env.parallel_env, game), mask=mask), num_cycles=50)
    seed_test(lambda: control_view(make(tracer_env.env, game), mask=mask), num_cycles=20)
    parallel_seed_test(lambda: control_view(make(tracer_env.parallel_env, game), mask=mask), num_cycles=20)
    turns, rounds = (control_view(make(face, game), mask=mask) for face in (tracer_env.env, tracer_env.parallel_env))
    state_test(turns, rounds)
    for seat in turns.possible_agents:
        check_env(control_view(make(tracer_env.env, game), seat, mask=mask, others=0.5))


def play_rounds(view, rng, seed=None):
    """Play an episode at random, checking every observation; return the rewards of each round and the end."""
    observations, infos = view.reset(seed=seed)
    paid = []
    while view.agents:
        actions = {agent: int(rng.integers(2)) for agent in view.agents}
        observations, rewards, _, _, infos = view.step(actions)
        paid.append(rewards)
        for agent in view.possible_agents:
            assert view.observation_space(agent).contains(observations[agent])
            assert all(not isinstance(value, str) for value in infos[agent].values())
    assert view.state_space.contains(view.state())
    return paid, view.dialogue


@pytest.mark.parametrize("game", GAMES)
def test_a_view_plays_the_game_of_the_environment(game):
    view, env = (make(tracer_env.parallel_env, game) for _ in range(2))
    view, rng = control_view(view), np.random.default_rng(1)
    for episode in range(20):
        seed = 7 if episode == 0 else None
        paid, end = play_rounds(view, rng, seed)
        observations, _ = env.reset(seed=seed)
        for number, rewards in enumerate(paid):
            spoke = {turn.seat.name: turn.control for turn in end.turns if turn.round == number}
            observations, theirs, *_ = env.step({agent: {"control": c} for agent, c in spoke.items()})
            assert theirs == rewards
        assert not env.agents
        assert [(t.seat, t.control, t.utterance) for t in env.dialogue.turns] == [
            (t.seat, t.control, t.utterance) for t in end.turns
        ]
        for agent in env.possible_agents:
            shown = view._views()[0][agent]
            assert (shown["observation"] == scale_features(observations[agent]["features"])).all()


@pytest.mark.parametrize("game", GAMES)
def test_both_faces_show_and_pay_the_same(game):
    turns, rounds = control_view(make(tracer_env.env, game)), control_view(make(tracer_env.parallel_env, game))
    rng = np.random.default_rng(3)
    for seed in range(10):
        turns.reset(seed=seed)
        observations, _ = rounds.reset(seed=seed)
        total, theirs = dict.fromkeys(rounds.possible_agents, 0.0), dict.fromkeys(rounds.possible_agents, 0.0)
        while rounds.agents:
            actions = {agent: int(rng.integers(2)) for agent in rounds.agents}
            acting = [a for a in rounds.agents if observations[a]["action_mask"][Control.SPEAK]]
            for agent in acting:
                assert turns.agent_selection == agent
                observation, reward, *_ = turns.last()
                theirs[agent] += reward
                for key in ("observation", "action_mask"):
                    assert (observation[key] == observations[agent][key]).all()
                turns.step(actions[agent])
            observations, rewards, *_ = rounds.step(actions)
            for agent, reward in rewards.items():
                total[agent] += reward
        while turns.agents:
            theirs[turns.agent_selection] += turns.last()[1]
            turns.step(None)
        assert theirs == pytest.approx(total)


def test_the_mask_is_where_it_was_asked_for():
    for face in FACES:
        for mask in ("observation", "info"):
            view = control_view(make(face), mask=mask)
            view.reset(seed=0)
            seats = {"proposer_0": [0, 1], "reviewer_0": [1, 0]}  # the first must SPEAK, the second does not act
            for agent, expected in seats.items():
                observation = view._views()[0][agent] if face is tracer_env.parallel_env else view.observe(agent)
                info = view._views()[1][agent] if face is tracer_env.parallel_env else view.infos[agent]
                place, other = (observation, info) if mask == "observation" else (info, observation)
                assert place["action_mask"].tolist() == expected
                assert place["action_mask"].dtype == np.int8
                assert "action_mask" not in other if mask == "observation" else isinstance(other, np.ndarray)
    view = control_view(make(tracer_env.env), "proposer_0", mask="info")
    observation, info = view.reset(seed=0)
    assert observation.shape == (len(FEATURES),)
    assert info["action_mask"].tolist() == view.action_masks().tolist() == [0, 1]


def test_a_masked_skip_is_played_as_speak():
    view = control_view(make(tracer_env.parallel_env))
    view.reset(seed=0)
    view.step({"proposer_0": 0, "reviewer_0": 1})
    assert [turn.spoke for turn in view.dialogue.turns] == [True]
    seat = control_view(make(tracer_env.parallel_env), "proposer_0")
    seat.reset(seed=0)
    seat.step(np.int64(0))
    assert seat.dialogue.turns[0].spoke


@pytest.mark.parametrize("game", ["default", "together", "budget"])
@pytest.mark.parametrize("seat", ["proposer_0", "reviewer_0"])
def test_a_seats_rewards_add_up_to_the_team_return(game, seat):
    view = control_view(make(tracer_env.env, game), seat, others=0.5)
    rng = np.random.default_rng(0)
    ends = set()
    for seed in range(60):
        view.reset(seed=seed)  # given up at once: what was paid before the seat's turn must not be carried over
        observation, _ = view.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            assert view.dialogue.over or observation["action_mask"][Control.SPEAK], "only own turns are shown"
            observation, reward, terminated, truncated, _ = view.step(int(rng.integers(2)))
            total, done = total + reward, terminated or truncated
        assert total == pytest.approx(view.game.team_return(view.dialogue))
        ends.add((terminated, truncated))
    assert ends == ({(True, False), (False, True)} if game == "budget" else {(True, False)})


def test_an_episode_without_a_turn_of_the_seat_takes_one_step():
    view = control_view(tracer_env.env(task="simulated:default", rewards=REWARDS, rounds=1), "reviewer_0")
    observation, _ = view.reset(seed=0)
    assert view.dialogue.over
    assert observation["action_mask"].tolist() == [1, 0]
    _, reward, terminated, truncated, _ = view.step(0)
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(view.game.team_return(view.dialogue))


def mean_return(others, speak_prob, episodes=3000):
    view = control_view(make(tracer_env.env), "proposer_0", others=others)
    rng, total = np.random.default_rng(0), 0.0
    view.reset(seed=0)
    for _ in range(episodes):
        view.reset()
        done = False
        while not done:
            _, reward, done, *_ = view.step(int(rng.random() < speak_prob))
            total += reward
    return total / episodes


def test_the_others_play_their_policy():
    tree = build_tree(make(tracer_env.env).unwrapped.game)
    asked = set()

    def by_key(seat, key, features, mask):
        asked.add((seat.name, key))
        assert features.shape == (len(FEATURES),)
        assert mask == (True, True)
        return 0.2 if "votes=0" in key else 0.9

    keys = {pair for pair in tree.infosets if pair[0].role is Role.REVIEWER}
    table = {pair: 0.2 if "votes=0" in pair[1] else 0.9 for pair in keys}
    for others, theirs in (
        (None, lambda *_: 1.0),
        (0.0, lambda *_: 0.0),
        (by_key, lambda s, k, f, m: table[s, k]),
        (table, lambda s, k, f, m: table[s, k]),
        ({}, lambda *_: 0.5),
    ):
        exact = evaluate(tree, lambda s, k, f, m, p=theirs: 0.7 if s.role is Role.PROPOSER else p(s, k, f, m))
        assert mean_return(others, 0.7) == pytest.approx(exact.team_return, abs=0.06)  # 3 standard errors of a mean
    assert {seat for seat, _ in asked} == {"reviewer_0"}


def test_every_unbounded_feature_has_a_unit():
    for feature, unit in zip(FEATURES, FEATURE_UNITS, strict=True):
        bounded = np.isfinite([feature.low, feature.high]).all()
        assert unit > 1 or bounded or feature.name == "mean_logprob"
        assert unit == 1 or not bounded
    assert (scale_features(2 * FEATURE_UNITS) == 2).all()
    assert scale_features(np.ones((3, len(FEATURES)), dtype=np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("make_view", "error", "message"),
    [
        (lambda: control_view(tracer_env.env(task=ToyTask())), ConfigError, "needs a generator"),
        (lambda: control_view(make(tracer_env.env), mask="infos"), UnknownNameError, "Did you mean 'info'"),
        (lambda: control_view(make(tracer_env.env), "proposer_1"), UnknownNameError, "Did you mean 'proposer_0'"),
        (lambda: control_view(make(tracer_env.env), others=0.5), ConfigError, "seat="),
        (lambda: control_view(make(tracer_env.env), "proposer_0", others=1.5), ConfigError, r"\[0, 1\]"),
        (lambda: control_view(control_view(make(tracer_env.parallel_env))), ConfigError, "_RoundView"),
    ],
)
def test_what_cannot_be_viewed_is_an_error(make_view, error, message):
    with pytest.raises(error, match=message):
        make_view()


@pytest.mark.parametrize("seat", [None, "proposer_0"])
def test_steps_outside_an_episode_and_bad_controls_are_errors(seat):
    view = control_view(make(tracer_env.parallel_env), seat)
    act = (lambda c: view.step({"proposer_0": c})) if seat is None else view.step
    with pytest.raises(ActionError, match="reset"):
        act(1)
    view.reset(seed=0)
    for bad in (2, "1", None, 0.5):
        with pytest.raises(ActionError, match="control of proposer_0"):
            act(bad)
    if seat is None:
        with pytest.raises(ActionError, match="needs an action"):
            view.step({"reviewer_0": 1})
    assert view.dialogue.turns == ()


def test_views_show_transcripts(capsys):
    for seat in (None, "proposer_0"):
        view = control_view(make(tracer_env.parallel_env), seat)
        with pytest.raises(ActionError, match="reset"):
            view.render()
        view.reset(seed=0)
        assert "A simulated question." in view.render()
        shown = control_view(make(tracer_env.parallel_env, render_mode="human"), seat)
        shown.reset(seed=0)
        assert shown.render() is None
        assert "A simulated question." in capsys.readouterr().out


def test_a_view_is_forked_as_a_view():
    view = control_view(tracer_env.env(task="simulated:default"))
    view.reset(seed=0)
    view.step(1)
    branch = view.fork()
    branch.step(1)
    assert type(branch) is type(view)
    assert branch.observe("proposer_0")["observation"].shape == view.observe("proposer_0")["observation"].shape
    assert len(branch.unwrapped.dialogue.turns) == 2 == 1 + len(view.unwrapped.dialogue.turns)


def test_rounds_are_forked():
    view = control_view(tracer_env.parallel_env(task="simulated:default"))
    view.reset(seed=0)
    view.step({"proposer_0": 1})
    branch = view.fork()
    while branch.agents:
        branch.step(dict.fromkeys(branch.agents, 1))
    assert view.agents
    assert len(view.dialogue.turns) == 1
    assert len(branch.dialogue.turns) == 5
    view.reset()
    branch.reset()
    assert view.dialogue.question == branch.dialogue.question  # both draw the same from there on


def test_the_turns_of_a_seat_are_forked():
    view = control_view(tracer_env.parallel_env(task="simulated:default"), "proposer_0", others=0.5)
    view.reset(seed=3)
    view.step(1)
    branch, before = view.fork(), view.dialogue
    played = [step(1) for step in (view.step, branch.step)]
    assert view.dialogue == branch.dialogue != before  # the others draw the same numbers
    assert played[0][1:4] == played[1][1:4]
    branch.step(1)
    assert branch.dialogue != view.dialogue


@pytest.mark.parametrize("others", ["always", [0.5], 1.5, float("nan")])
def test_other_seats_play_by_a_policy(others):
    with pytest.raises(ConfigError, match="others="):
        control_view(tracer_env.parallel_env(task="simulated:default"), "proposer_0", others=others)


@pytest.mark.parametrize("given", [5.0, float("nan"), None])
def test_a_policy_of_other_seats_gives_probabilities(given):
    view = control_view(tracer_env.parallel_env(task="simulated:default"), "proposer_0", others=lambda *_: given)
    view.reset(seed=0)
    with pytest.raises(ConfigError, match="gave reviewer_0"):
        view.step(1)


@pytest.mark.parametrize("env", [None, tracer_env.Game("simulated:default")])
def test_a_view_is_of_an_environment(env):
    with pytest.raises(ConfigError, match="needs an environment"):
        control_view(env)
    with pytest.raises(ConfigError, match="already"):
        control_view(control_view(tracer_env.env(task="simulated:default")))
