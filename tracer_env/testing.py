"""Checks anyone can run on an environment or a task of their own. One function per property.

PettingZoo's own tests stop after a step in places and pass observations outside their space; these play whole
episodes on both faces and compare everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracer_env.spaces import action_space
from tracer_env.tasks.base import Task

__all__ = [
    "check_determinism",
    "check_env",
    "check_faces_agree",
    "check_observations",
    "check_rewards",
    "check_task",
    "play_episode",
]

Record = list[dict[str, Any]]


def play_episode(env: Any, seed: int, action_seed: int = 0, face: str | None = None) -> Record:
    """Play one whole episode with random actions and record everything that is visible.

    Args:
        env: an AEC or parallel environment of this game.
        seed: given to ``reset``.
        action_seed: seeds the actions; the same seed gives the same actions on both faces.
        face: ``"aec"`` or ``"parallel"``; by default found out.

    Returns:
        One record per acting seat, in acting order, and a last one with the returns of all agents.

    Raises:
        AssertionError: if the episode does not end within 10,000 steps.
    """
    face = face or ("aec" if hasattr(env, "agent_selection") or hasattr(env, "agent_iter") else "parallel")
    space = action_space()
    space.seed(action_seed)
    return _play_aec(env, seed, space) if face == "aec" else _play_parallel(env, seed, space)


def _record(agent: str, observation: Any, info: Any, action: Any) -> dict[str, Any]:
    return {"agent": agent, "observation": observation, "info": info, "action": action}


def _play_aec(env: Any, seed: int, space: Any) -> Record:
    env.reset(seed=seed)
    returns = dict.fromkeys(env.possible_agents, 0.0)
    record: Record = []
    for step, agent in enumerate(env.agent_iter(10_000)):
        observation, reward, terminated, truncated, info = env.last()
        assert env.observation_space(agent).contains(observation), f"observation of {agent} is outside its space"
        returns[agent] += reward
        if terminated or truncated:
            env.step(None)
            continue
        action = space.sample()
        record.append(_record(agent, observation, info, action))
        env.step(action)
        assert step < 9_999, "the episode did not end within 10,000 steps"
    assert not env.agents, "agents are left after the end"
    return [*record, {"returns": returns}]


def _play_parallel(env: Any, seed: int, space: Any) -> Record:
    observations, infos = env.reset(seed=seed)
    returns = dict.fromkeys(env.possible_agents, 0.0)
    record: Record = []
    for _ in range(10_000):
        actions = {}
        for agent in env.agents:
            seen = observations[agent]
            assert env.observation_space(agent).contains(seen), f"observation of {agent} is outside its space"
            if seen["control_mask"][1]:
                actions[agent] = space.sample()
                record.append(_record(agent, seen, infos[agent], actions[agent]))
        observations, rewards, terminations, truncations, infos = env.step(actions)
        for agent, reward in rewards.items():
            returns[agent] += reward
        if not env.agents:
            assert all(terminations[a] or truncations[a] for a in env.possible_agents), "ended without an end flag"
            return [*record, {"returns": returns}]
    raise AssertionError("the episode did not end within 10,000 steps")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _assert_same(one: Record, two: Record, what: str) -> None:
    assert len(one) == len(two), f"{what}: episodes of different length, {len(one) - 1} and {len(two) - 1} turns"
    for k, (a, b) in enumerate(zip(one, two, strict=True)):
        for key in a:
            assert _equal(a[key], b[key]), f"{what}: turn {k} differs in {key!r}"


def check_determinism(make_env: Callable[[], Any], seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Check that whole episodes repeat: two instances, and one instance reset twice.

    Args:
        make_env: makes a fresh environment.
        seeds: reset seeds to try.

    Raises:
        AssertionError: naming the first turn that differs.
    """
    used = make_env()
    for seed in seeds:
        fresh = play_episode(make_env(), seed, action_seed=seed)
        _assert_same(fresh, play_episode(make_env(), seed, action_seed=seed), "two instances, same seed")
        _assert_same(fresh, play_episode(used, seed, action_seed=seed), "one instance, reset again")


def check_faces_agree(
    make_aec: Callable[[], Any], make_parallel: Callable[[], Any], seeds: Sequence[int] = (0, 1, 2)
) -> None:
    """Check that both faces play the same episode and pay the same returns for the same seed and actions.

    In a simultaneous round the mask and infos of a seat that has acted differ by design, so what each seat saw
    when it acted is compared.

    Raises:
        AssertionError: naming the first turn that differs.
    """
    for seed in seeds:
        aec = play_episode(make_aec(), seed, action_seed=seed, face="aec")
        parallel = play_episode(make_parallel(), seed, action_seed=seed, face="parallel")
        for key, value in aec[-1]["returns"].items():
            other = parallel[-1]["returns"][key]
            assert abs(value - other) < 1e-9, f"returns of {key} differ: {value} (AEC) and {other} (parallel)"
        _assert_same(aec[:-1], parallel[:-1], "AEC and parallel face")


def check_observations(make_env: Callable[[], Any], seed: int = 0) -> None:
    """Check that every observation of a whole episode is inside its space and that a seat's space is one object.

    Raises:
        AssertionError: naming the agent.
    """
    env = make_env()
    for agent in env.possible_agents:
        assert env.observation_space(agent) is env.observation_space(agent), "observation_space must return one object"
        assert env.action_space(agent) is env.action_space(agent), "action_space must return one object"
    play_episode(env, seed)


def check_rewards(make_env: Callable[[], Any], seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Check that all returns are finite numbers.

    Raises:
        AssertionError: naming the agent.
    """
    for seed in seeds:
        for agent, value in play_episode(make_env(), seed, action_seed=seed)[-1]["returns"].items():
            assert np.isfinite(value), f"the return of {agent} is {value}"


def check_env(make_env: Callable[[], Any]) -> None:
    """Run every check of one environment over whole episodes.

    Raises:
        AssertionError: with the rule that is broken.
    """
    check_observations(make_env)
    check_rewards(make_env)
    check_determinism(make_env)


def check_task(task: Task, num_questions: int = 100) -> None:
    """Check a task: golds match themselves, questions repeat, ids are unique, and nothing matches None.

    Args:
        task: the task.
        num_questions: how many questions to look at.

    Raises:
        AssertionError: naming the question id.
    """
    assert isinstance(task, Task), "a task needs name, split, kind and the four methods of tracer_env.Task"
    size = task.num_questions()
    seen = set()
    for index in range(num_questions if size is None else min(size, num_questions)):
        question = task.question(index)
        assert question == task.question(index), f"{question.question_id}: question {index} is not stable"
        assert question.question_id not in seen, f"{question.question_id}: id is not unique"
        seen.add(question.question_id)
        assert task.answers_match(question.gold, question.gold), f"{question.question_id}: gold does not match itself"
        assert not task.answers_match(None, question.gold), f"{question.question_id}: None matches the gold answer"
