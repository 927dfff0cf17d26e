"""Learning the controllers anew on a recording of the final team: what a run deploys.

The generators are frozen, the control tree of fresh questions is recorded, and the run's regret minimiser learns on it
with exact values from several random starts. Beside the certificate of these updates, the recording then tells what
the deployed controllers miss.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracer_agents.assembly import policy_of, questions_of, seed_of
from tracer_agents.config import TrainConfig
from tracer_agents.fit import ExactFit, best_start
from tracer_agents.interfaces import Generator
from tracer_agents.record import GeneratorWriter, RecordPlan, check_recordable, describe_model, leaves_of, record
from tracer_agents.records import read_json_object
from tracer_env import Game, Question
from tracer_env.errors import ConfigError, TracerError
from tracer_env.exact import best_policy, build_tree, evaluate
from tracer_env.recordings import load_recording, read_manifest

__all__ = ["ITERATIONS", "STARTS", "Refit", "kind_of_refit", "questions_to_record", "refit_on_recording"]

STARTS, ITERATIONS = 32, 300
"""A fit takes a fraction of a second, and single starts end in different equilibria."""

_PLAN = RecordPlan(replicates=1, candidates=1, proposals=1, reviews=1, chunk=128)
"""One tree of each question: another question tells more than another tree of the same one."""

_SMALL = 64
"""``auto`` records up to so many leaves of a question's tree: seven rounds of one proposer and one reviewer."""


def kind_of_refit(config: TrainConfig, game: Game) -> str:
    """Return how a run re-fits: ``"recording"``, ``"live"`` or ``"none"``.

    Raises:
        ConfigError: if a recording is asked for and the game is too large for one, or there are too few questions.
    """
    if not config.trains_controllers or leaves_of(game.rules) == 1:
        return "none"  # without controllers, or without a choice
    kind = config.refit
    if kind == "auto":
        small = leaves_of(game.rules) <= _SMALL
        kind = "recording" if small and config.estimator == "rollout" else "live"
    if kind == "recording":
        check_recordable(game, _PLAN)
    if kind == "live" and config.refit_updates < 2:
        raise ConfigError("a live re-fit needs at least 2 updates: raise --refit-updates, or say --refit none.")
    if kind == "live" and config.refit_questions < config.refit_updates:
        raise ConfigError(
            f"each of the {config.refit_updates} updates of a live re-fit needs a question: raise --refit-questions "
            f"(now {config.refit_questions}) or lower --refit-updates."
        )
    return kind


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What was learned on a recording.

    Attributes:
        fit: the best of all starts.
        figures: for the summary: team returns on the recording.
        tokens: how many tokens were generated for the recording.
    """

    fit: ExactFit
    figures: dict[str, Any]
    tokens: int


def questions_to_record(config: TrainConfig, game: Game) -> tuple[list[Question], bool]:
    """Return distinct questions for the recording, and whether they are fresh.

    They go on where training stopped. When a finite split has none left, its questions are taken again, each once.
    """
    size, first = game.task.num_questions(), config.updates * config.questions_per_update
    count, fresh = config.refit_questions, True
    if size is not None:
        fresh = first < size
        first = first if fresh else -(-first // size) * size  # the beginning of an epoch
        count = min(count, size - first if fresh else size)
    return questions_of(game, seed_of(config.seed, "questions"), first, count), fresh


def refit_on_recording(
    config: TrainConfig,
    game: Game,
    generator: Generator,
    adapters: Path,
    out: Path,
    on_chunk: Callable[[int, int], None],
) -> Refit:
    """Record the team on questions, and fit its controllers on that. Goes on after an interruption.

    What another team has recorded there, as it may have when a run was resumed from an older checkpoint, is made again.

    Args:
        config: of the run.
        game: on the training split, valued by the team return.
        generator: the final team's.
        adapters: folder with the final team's adapters, to know its recording by.
        out: where the recording goes, ending in ``.npz``.
        on_chunk: called with (questions done, questions in all).
    """
    policies = {seat: policy_of(config, seat) for seat in game.rules.seats}
    plan = replace(_PLAN, seed=seed_of(config.seed, "refit"))
    wrote = describe_model(config, adapters)
    _drop_strange(out, wrote)
    questions, fresh = questions_to_record(config, game)
    writer = GeneratorWriter(game, generator, policies)
    record(game, writer, questions, out, plan=plan, model=wrote, on_chunk=on_chunk)
    recorded = load_recording(out)
    tree = build_tree(Game(f"recorded:{out}", abstraction=config.abstraction, rewards=game.rewards))
    starts = [seed_of(config.seed, "refit") + k for k in range(STARTS)]
    averaging = None if config.averaging == "usual" else config.averaging
    fit, returns = best_start(tree, config.minimiser, starts=starts, iterations=ITERATIONS, averaging=averaging)
    best = best_policy(tree)
    return Refit(
        fit=fit,
        figures={
            "questions": len(questions),
            "fresh": fresh,
            "team_return": evaluate(tree, fit.greedy).team_return,
            "optimum": best.team_return,
            "is_optimum": best.is_optimum,
            "starts": returns,
        },
        tokens=sum(int(t.tokens_out.sum()) for t in (recorded.tree, recorded.proposals, recorded.greedy)),
    )


def _drop_strange(out: Path, wrote: dict[str, Any]) -> None:
    """Remove a recording, or the parts of one, that another team has written or that cannot be read."""
    parts = out.with_name(out.name + ".parts")
    if out.exists() and _writer_of(lambda: read_manifest(out)) != wrote:
        out.unlink()
    if parts.exists() and _writer_of(lambda: read_json_object(parts / "manifest.json", "", ConfigError)) != wrote:
        shutil.rmtree(parts)


def _writer_of(read: Callable[[], Mapping[str, Any]]) -> Any:
    try:
        return read().get("model")
    except TracerError:
        return None
