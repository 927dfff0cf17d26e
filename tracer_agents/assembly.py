"""From settings to a game, a team and its questions: what training and evaluation have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tracer_agents.config import TrainConfig
from tracer_agents.interfaces import Controller, Generator
from tracer_agents.rollout import Player
from tracer_env import Costs, Game, OutcomeRewards, Question, RewardScheme, Seat, TracerRewards
from tracer_env.errors import ConfigError
from tracer_env.registry import names_a_file, names_a_script

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "SHIPPED_MODEL",
    "evaluation_questions",
    "load_generator",
    "make_game",
    "make_games",
    "make_team",
    "policy_of",
    "questions_of",
    "seed_of",
]

_PHASES = {"train": 0, "refit": 1, "evaluate": 2, "learn": 3, "adapters": 4, "questions": 5, "check": 6, "record": 7}
SHIPPED_MODEL = Path(__file__).resolve().parent / "models" / "tiny"
"""The small model that comes with the package."""


def seed_of(seed: int, phase: str, update: int = 0) -> int:
    """Return the seed of one phase of one update, in [0, 2**63)."""
    sequence = np.random.SeedSequence([seed, _PHASES[phase], update])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def policy_of(config: TrainConfig, seat: Seat) -> str:
    """Return the name of the policy that writes a seat's texts: its own, or its role's."""
    return seat.name if config.policies == "seat" else seat.role.value


def make_game(config: TrainConfig, *, task: str, split: str) -> Game:
    """Return the game of a run on one split of a task. Only named tasks look at ``data_dir``."""
    costs = Costs(per_call=config.cost_per_call, per_1k_tokens=config.cost_per_1k_tokens)
    if names_a_script(task):
        raise ConfigError(
            f"task {task!r} brings its texts itself, so no model can be trained or evaluated on it. Controllers can: "
            "see tracer_env.exact, and examples/learners."
        )
    return Game(
        task,
        split=split,
        data_dir=None if task == "arithmetic" or names_a_file(task) else config.data_dir,
        rewards=_scheme(config, costs),
        abstraction=config.abstraction,
        proposers=config.proposers,
        reviewers=config.reviewers,
        rounds=config.rounds,
        schedule=config.schedule,
        on_invalid=config.on_invalid,
    )


def make_games(config: TrainConfig) -> tuple[Game, Game]:
    """Return the game on the training questions and the one on the held-out questions.

    Raises:
        ConfigError: if they are the same questions.
    """
    eval_task = config.evaluated_task
    training = make_game(config, task=config.task, split=config.split)
    held_out = make_game(config, task=eval_task, split=config.eval_split)
    ours, theirs = (getattr(game.task, "path", None) for game in (training, held_out))
    if ours is not None and theirs is not None and Path(ours).resolve() == Path(theirs).resolve():
        raise ConfigError(
            f"a run may not train on the questions it is evaluated on: {config.task} has no splits. "
            "Name another file or task as --eval-task."
        )
    if ours is None and theirs is None and (config.task, config.split) == (eval_task, config.eval_split):
        raise ConfigError(
            f"a run may not train on the questions it is evaluated on: both splits of {config.task!r} are "
            f"{config.split!r}. Choose another --eval-split."
        )
    return training, held_out


def _scheme(config: TrainConfig, costs: Costs) -> RewardScheme:
    """``rollout`` values controls by U; ``local`` by the role's own rewards, as the paper does."""
    return OutcomeRewards(costs=costs) if config.estimator == "rollout" else TracerRewards(costs=costs)


def questions_of(game: Game, seed: int, first: int, count: int) -> list[Question]:
    """Return questions ``first .. first + count`` of a seeded order over a split.

    A finite split is gone through in a new order each epoch; of an endless one, every question is new.
    """
    size = game.task.num_questions()
    if size is None:
        offset = np.random.default_rng([seed, first]).integers(2**53, size=count)
        return [game.task.question(int(index)) for index in offset]
    epochs = range(first // size, (first + count - 1) // size + 1)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(size) for epoch in epochs}
    positions = (divmod(position, size) for position in range(first, first + count))
    return [game.task.question(int(orders[epoch][k])) for epoch, k in positions]


def evaluation_questions(game: Game, count: int) -> list[Question]:
    """Return the held-out questions: the same for every run and seed, so that runs can be paired by question.

    Of a finite split a fixed random part is taken, or all of it.
    """
    size = game.task.num_questions()
    if size is None:
        return [game.task.question(index) for index in range(count)]
    order = np.random.default_rng(0).permutation(size)[:count]
    return [game.task.question(int(index)) for index in order]


def make_team(config: TrainConfig, game: Game, controllers: Mapping[str, Controller]) -> dict[Seat, Player]:
    """Put a controller (by seat name) and a policy on every seat."""
    return {
        seat: Player(policy=policy_of(config, seat), controller=controllers[seat.name]) for seat in game.rules.seats
    }


def load_generator(
    config: TrainConfig, policies: Sequence[str], *, seed: int
) -> tuple[PeftModel, PreTrainedTokenizerBase, Generator]:
    """Load a run's base model, add an untrained adapter for each policy, and put a generator on top.

    Args:
        config: names the model and the settings of adapters and generation.
        policies: names of the adapters.
        seed: of the adapters' weights.

    Returns:
        The model with its adapters, its tokenizer and the generator that shares them.

    Raises:
        ModelFolderError: if the model cannot be loaded.
    """
    from tracer_agents.generators.policies import add_policies, load_base_model, lora_config
    from tracer_agents.generators.transformers import TransformersGenerator

    base, tokenizer = load_base_model(SHIPPED_MODEL if config.model is None else config.model)
    model = add_policies(base, policies, lora_config(config), seed=seed)
    generator = TransformersGenerator(
        model,
        tokenizer,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        chat_options={"enable_thinking": config.thinking},
    )
    return model, tokenizer, generator
