"""Forks and snapshots: both controls at a decision played on from the same moment."""

import time

import numpy as np
import pytest
from toy import ToyTask

import tracer_env
from tracer_env.errors import ActionError, ConfigError

FACES = [tracer_env.env, tracer_env.raw_env, tracer_env.parallel_env]
TEAMS = [{}, {"proposers": 2, "reviewers": 2, "schedule": "simultaneous"}]


def act(env, controls):
    """Play one step with the next control; AEC agents after the end are stepped with None."""
    if hasattr(env.unwrapped, "agent_selection"):
        agent = env.agent_selection
        dead = env.terminations[agent] or env.truncations[agent]
        env.step(None if dead else {"control": int(controls.integers(2)), "utterance": str(controls.integers(9))})
    else:
        env.step(
            {a: {"control": int(controls.integers(2)), "utterance": str(controls.integers(9))} for a in env.agents}
        )


def view(env):
    """Everything a user can see."""
    seen = [env.unwrapped.dialogue, list(env.agents)]
    if hasattr(env.unwrapped, "agent_selection"):
        seen += [env.agent_selection if env.agents else None, dict(env.rewards), dict(env.terminations)]
        seen += [dict(env.truncations), dict(env.unwrapped._cumulative_rewards), repr(env.infos)]
    return seen


def finish(env, seed):
    controls, seen = np.random.default_rng(seed), []
    while env.agents:
        act(env, controls)
        seen.append(view(env))
    env.reset()
    return [*seen, view(env)]  # the next question is drawn from the same random state too


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("settings", TEAMS)
@pytest.mark.parametrize("steps", [0, 1, 3, 6, 8])
def test_branches_go_on_alike_and_apart(face, settings, steps):
    env = face(ToyTask(), **settings)
    env.reset(seed=1)
    controls = np.random.default_rng(0)
    for _ in range(steps):
        if env.agents:
            act(env, controls)
    here, moment = view(env), env.snapshot()
    branch = env.fork()
    assert type(branch) is type(env)
    assert view(branch) == here
    other = finish(branch, 5)
    assert view(env) == here, "a branch has moved the game that it left"
    assert finish(env.fork(), 5) == other
    assert finish(env, 5) == other
    for _ in range(2):  # as often as wanted
        env.restore(moment)
        assert view(env) == here
        assert finish(env, 5) == other
    env.restore(moment)
    if len(other) > 2:
        assert finish(env, 6) != other


@pytest.mark.parametrize("face", FACES)
def test_what_cannot_be_branched(face):
    env = face(ToyTask())
    with pytest.raises(ActionError, match="reset"):
        env.snapshot()
    with pytest.raises(ActionError, match="reset"):
        env.fork()
    env.reset(seed=0)
    other = face(ToyTask())
    other.reset(seed=0)
    with pytest.raises(ConfigError, match="fork of it"):
        other.restore(env.snapshot())


def test_the_transcript_is_shared_and_a_fork_does_not_grow_with_it():
    env = tracer_env.raw_env(ToyTask(), rounds=2000, reviewers=0)
    env.reset(seed=0)

    def cost():
        times = []
        for _ in range(30):
            began = time.process_time()
            for _ in range(20):
                env.fork()
            times.append(time.process_time() - began)
        return min(times)

    short = cost()
    for _ in range(1999):
        env.step({"control": 1, "utterance": "5"})
    assert env.fork().dialogue is env.dialogue
    assert cost() < 3 * short  # a copy of two thousand turns would take a hundred times as long
