"""Both PettingZoo faces: their tests, ours, agreement, and errors."""

import copy
import pickle

import numpy as np
import pettingzoo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test, seed_test
from toy import ToyTask

import tracer_env
from tracer_env import Control, Utterance
from tracer_env.errors import ActionError, ConfigError, RewardError, UnknownNameError
from tracer_env.testing import check_determinism, check_env, check_faces_agree, play_episode

SHAPES = [
    {},
    {"proposers": 2, "reviewers": 2, "rounds": 7},
    {"proposers": 1, "reviewers": 0, "rounds": 3},
    {"proposers": 3, "reviewers": 2, "rounds": 4, "schedule": "simultaneous"},
    {"proposers": 2, "reviewers": 2, "schedule": "reference", "abstraction": "round"},
    {"proposers": 2, "reviewers": 1, "abstraction": "history", "rewards": "outcome"},
    {"rounds": 1},
    {"stop_after_skips": 1, "token_budget": 40},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pettingzoo_tests(shape):
    api_test(tracer_env.env(ToyTask(), **shape), num_cycles=100)
    api_test(tracer_env.raw_env(ToyTask(), **shape), num_cycles=100)
    parallel_api_test(tracer_env.parallel_env(ToyTask(), **shape), num_cycles=100)
    seed_test(lambda: tracer_env.env(ToyTask(), **shape), num_cycles=50)
    parallel_seed_test(lambda: tracer_env.parallel_env(ToyTask(), **shape), num_cycles=50)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pettingzoo_render_test(capsys):
    render_test(lambda render_mode: tracer_env.env(ToyTask(), render_mode=render_mode))
    assert "proposer_0" in capsys.readouterr().out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_our_whole_episode_checks(shape):
    check_env(lambda: tracer_env.env(ToyTask(), **shape))
    check_env(lambda: tracer_env.parallel_env(ToyTask(), **shape))
    check_faces_agree(
        lambda: tracer_env.raw_env(ToyTask(), **shape), lambda: tracer_env.parallel_env(ToyTask(), **shape)
    )


@given(
    proposers=st.integers(1, 3),
    reviewers=st.integers(0, 3),
    rounds=st.integers(1, 7),
    schedule=st.sampled_from(["round_robin", "simultaneous"]),
    rewards=st.sampled_from(["tracer", "outcome"]),
    on_invalid=st.sampled_from(["keep", "replace"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_faces_agree_for_any_shape(seed, **shape):
    check_faces_agree(
        lambda: tracer_env.raw_env(ToyTask(), **shape),
        lambda: tracer_env.parallel_env(ToyTask(), **shape),
        seeds=(seed,),
    )


class _ForgetsSeed(tracer_env.parallel_env):
    """Broken on purpose: ignores the seed after the first reset."""

    def reset(self, seed=None, options=None):
        first = self._state is None
        return super().reset(seed=seed if first else None, options=options)


class _OutsideItsSpace(tracer_env.parallel_env):
    """Broken on purpose: a mask that is not one."""

    def step(self, actions):
        observations, *rest = super().step(actions)
        for observation in observations.values():
            observation["features"] = observation["features"].astype(np.float64)
        return observations, *rest


class _ChargesTwice(tracer_env.raw_env):
    """Broken on purpose: pays the acting agent again."""

    def _finish_round(self, state):
        super()._finish_round(state)
        self._cumulative_rewards[self.possible_agents[0]] += 1.0


def test_our_checks_can_fail():
    with pytest.raises(AssertionError, match="reset again"):
        check_determinism(lambda: _ForgetsSeed(ToyTask()))
    with pytest.raises(AssertionError, match="outside its space"):
        check_env(lambda: _OutsideItsSpace(ToyTask()))
    with pytest.raises(AssertionError, match="returns of proposer_0 differ"):
        check_faces_agree(lambda: _ChargesTwice(ToyTask()), lambda: tracer_env.parallel_env(ToyTask()))


def act(control, text=""):
    return {"control": control, "utterance": text}


def test_delayed_rewards_are_collected_at_the_next_turn_or_after_the_end():
    env = tracer_env.env(ToyTask(), rewards="outcome", rounds=3)
    env.reset(seed=0, options={"index": 7})
    for text in ("7", "RIGHT", "7"):
        _, reward, *_ = env.last()
        assert reward == 0
        env.step(act(1, text))
    collected = {}
    for agent in env.agent_iter():
        _, collected[agent], terminated, truncated, info = env.last()
        assert terminated
        assert not truncated
        assert info["correct"] is True
        env.step(None)
    assert collected == {"proposer_0": 1.0, "reviewer_0": 1.0}


def test_nothing_of_a_simultaneous_round_is_visible_before_its_end():
    env = tracer_env.raw_env(ToyTask(), proposers=2, schedule="simultaneous")
    env.reset(seed=0, options={"index": 7})
    before = env.observe("proposer_1")
    info = copy.deepcopy(env.infos["proposer_1"])
    env.step(act(1, "secret"))
    after = env.observe("proposer_1")
    assert after["prompt"] == before["prompt"]
    assert np.array_equal(after["features"], before["features"])
    assert str(env.infos["proposer_1"]) == str(info)
    assert list(env.observe("proposer_0")["control_mask"]) == [1, 0]  # it has acted
    env.step(act(1, "7"))
    assert "secret" in env.observe("reviewer_0")["prompt"]


def test_parallel_ignores_seats_that_do_not_act_and_demands_those_that_do():
    env = tracer_env.parallel_env(ToyTask())
    observations, infos = env.reset(seed=0, options={"index": 7})
    assert list(observations["reviewer_0"]["control_mask"]) == [1, 0]
    assert list(infos["proposer_0"]["action_mask"]["control"]) == [0, 1]
    env.step({"proposer_0": act(1, "7"), "reviewer_0": act(1, "RIGHT")})
    assert env.dialogue.votes == 0
    with pytest.raises(ActionError, match="reviewer_0"):
        env.step({"proposer_0": act(1, "7")})
    with pytest.raises(UnknownNameError, match="'reviewer_0'"):
        env.step({"reviewer_1": act(1, "7")})


@pytest.mark.parametrize(
    "action",
    [None, 1, "SPEAK", {}, {"control": 2}, {"control": -1}, {"control": 1.5}, {"control": 1, "utterance": None}],
    ids=str,
)
def test_malformed_actions(action):
    for env in (tracer_env.raw_env(ToyTask()), tracer_env.parallel_env(ToyTask())):
        env.reset(seed=0)
        with pytest.raises(ActionError, match="proposer_0"):
            env.step({"proposer_0": action} if env.metadata and hasattr(env, "_views") else action)


def test_unknown_action_key_and_agents():
    env = tracer_env.raw_env(ToyTask())
    env.reset(seed=0)
    with pytest.raises(UnknownNameError, match="'utterance'"):
        env.step({"control": 1, "uterance": "7"})
    for name in ("SPAEK", "SPEAK"):
        with pytest.raises(ActionError, match=rf"Control.SPEAK \(1\), not the string '{name}'"):
            env.step({"control": name, "utterance": "7"})
    with pytest.raises(ActionError, match="must be 0"):
        env.step({"control": 1.0, "utterance": "7"})
    env.step({"control": np.array(1), "utterance": "7"})  # inside Discrete(2)
    with pytest.raises(UnknownNameError, match="proposer_0"):
        env.observe("proposer_9")
    with pytest.raises(UnknownNameError, match="proposer_0"):
        env.action_space("proposer")


@pytest.mark.parametrize(
    ("fact", "value"),
    [("tokens_out", -5), ("tokens_in", -1), ("mean_logprob", 1e-7), ("min_logprob", float("nan")), ("p_right", 1.5)],
)
def test_facts_of_an_utterance_have_ranges(fact, value):
    env = tracer_env.parallel_env(ToyTask())
    env.reset(seed=0)
    with pytest.raises(ActionError, match=rf"proposer_0: {fact} must be"):
        env.step({"proposer_0": act(1, Utterance("7", **{fact: value}))})
    env.step({"proposer_0": act(1, Utterance("7", **{fact: 0}))})


class _NotANumber(tracer_env.TracerRewards):
    def round_rewards(self, rules, before, turns, after):
        return dict.fromkeys(rules.seats, float("nan" if before.round == 0 else 0))


def test_a_reward_that_is_not_finite_leaves_the_game_where_it_was():
    raw, parallel = (make(ToyTask(), rewards=_NotANumber()) for make in (tracer_env.raw_env, tracer_env.parallel_env))
    for env, action in ((raw, act(1, "7")), (parallel, {"proposer_0": act(1, "7")})):
        env.reset(seed=0)
        for _ in range(2):
            with pytest.raises(RewardError, match="nan"):
                env.step(action)
            assert env.dialogue.round == 0


def test_pettingzoos_own_converter_is_refused_before_it_goes_wrong():
    with pytest.raises(AssertionError, match="not generally safe"):
        pettingzoo.utils.aec_to_parallel(tracer_env.env(ToyTask()))


def test_calls_out_of_order():
    for env in (
        tracer_env.env(ToyTask(), rounds=1),
        tracer_env.raw_env(ToyTask(), rounds=1),
        tracer_env.parallel_env(ToyTask(), rounds=1),
    ):
        action = act(1, "7")
        wrapped = {"proposer_0": action} if hasattr(env, "_views") else action
        with pytest.raises(ActionError, match="reset"):
            env.step(wrapped)
        env.reset(seed=0)
        env.step(wrapped)
        while isinstance(env, pettingzoo.AECEnv) and env.agents:
            with pytest.raises(ActionError, match="None"):
                env.step(wrapped)
            env.step(None)
        for late in (wrapped, None):
            with pytest.raises(ActionError, match="over"):
                env.step(late)


def test_unknown_settings():
    with pytest.raises(UnknownNameError, match="'rounds'"):
        tracer_env.parallel_env(ToyTask(), round=3)
    with pytest.raises(UnknownNameError, match="'ansi'"):
        tracer_env.raw_env(ToyTask(), render_mode="ansii")
    with pytest.raises(UnknownNameError, match="'tracer'"):
        tracer_env.raw_env(ToyTask(), rewards="trace")
    with pytest.raises(ConfigError, match="ballot"):
        tracer_env.raw_env(ToyTask(), abstraction="ballot")
    env = tracer_env.raw_env(ToyTask())
    with pytest.warns(UserWarning, match="'indx' is unknown"):
        env.reset(options={"indx": 1})
    with pytest.raises(ConfigError, match="20 questions"):
        env.reset(options={"index": 20})


@pytest.mark.parametrize("text", ["", "\\boxed{\\frac12}", "👍" * 10, "a\ud800b", "x" * 100_000, "\x00", "#### " * 50])
def test_any_model_text_is_inside_the_space_and_playable(text):
    env = tracer_env.parallel_env(task="arithmetic")
    env.reset(seed=0)
    action = act(1, text)
    assert env.action_space("proposer_0").contains(action)
    observations, *_, infos = env.step({"proposer_0": action})
    assert env.observation_space("reviewer_0").contains(observations["reviewer_0"])
    observations["reviewer_0"]["prompt"].encode("utf-8")
    assert infos["proposer_0"]["clipped"] == (len(text) > 32_768 or "\ud800" in text)


@given(st.text(st.characters(), max_size=400))
@settings(max_examples=200, deadline=None)
def test_no_text_raises_in_any_seat(text):
    env = tracer_env.parallel_env(task="arithmetic", rounds=2)
    env.reset(seed=0)
    env.step({"proposer_0": act(1, text)})
    env.step({"reviewer_0": act(1, text)})
    assert env.dialogue.over


def test_seed_none_goes_on_and_the_index_does_not_shift_later_draws():
    one, two = tracer_env.parallel_env(ToyTask()), tracer_env.parallel_env(ToyTask())
    one.reset(seed=3)
    two.reset(seed=3, options={"index": 5})
    assert two.dialogue.question.question_id == "toy/5"
    one.reset()
    two.reset()
    assert one.dialogue.question == two.dialogue.question


def test_registered_with_pettingzoo():
    env = pettingzoo.make("parallel", "tracer/dialogue-v0", task=ToyTask(), rounds=1)
    env.reset(seed=0)
    assert env.possible_agents == ["proposer_0", "reviewer_0"]
    aec = pettingzoo.make("aec", "tracer/dialogue-v0", task=ToyTask())
    aec.reset(seed=0)
    assert aec.agent_selection == "proposer_0"


def test_utterance_facts_reach_features_and_survive_copies():
    text = Utterance("7", tokens_in=9, tokens_out=3, mean_logprob=-0.5, min_logprob=-1.25, truncated=False)
    assert copy.deepcopy(text).facts() == pickle.loads(pickle.dumps(text)).facts() == text.facts()
    env = tracer_env.parallel_env(ToyTask())
    env.reset(seed=0)
    observations, *_ = env.step({"proposer_0": act(Control.SPEAK, text)})
    features = dict(zip((f.name for f in tracer_env.FEATURES), observations["reviewer_0"]["features"], strict=True))
    assert features["mean_logprob"] == -0.5
    assert features["min_logprob"] == -1.25
    assert features["logprob_known"] == 1
    assert features["p_right_known"] == 0
    assert features["tokens_spent"] == 3


def test_play_episode_records_what_is_visible():
    record = play_episode(tracer_env.parallel_env(ToyTask()), seed=0)
    assert record[-1]["returns"].keys() == {"proposer_0", "reviewer_0"}
    assert [r["agent"] for r in record[:-1]] == ["proposer_0", "reviewer_0"] * 2 + ["proposer_0"]
