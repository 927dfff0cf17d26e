"""The training run: alternates the two layers, re-fits the controllers, and measures before and after.

One update plays a batch of dialogues in which every decision is probed. The candidates are three things at once: the
utterance that is played, the controllers' counterfactual values, and the groups that GSPO trains on. After the last
update the generators are frozen and the controllers are learned anew on fresh questions: that is what is deployed.

Every random number derives from (seed, phase, update), so that a resumed run needs no generator state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tracer_agents.assembly import (
    evaluation_questions,
    load_generator,
    make_games,
    make_team,
    policy_of,
    questions_of,
    seed_of,
)
from tracer_agents.config import TrainConfig
from tracer_agents.controllers.fixed import make_fixed
from tracer_agents.controllers.storage import load_controllers, save_controllers
from tracer_agents.controllers.table import FrozenController, TabularController
from tracer_agents.drift import cotraining_regret
from tracer_agents.errors import CheckpointError, CollapseError, GeneratorError
from tracer_agents.evaluate import evaluate_team, self_consistency, single_call
from tracer_agents.interfaces import Controller, ControlValues, Group
from tracer_agents.records import RunDirectory, write_json
from tracer_agents.refit import kind_of_refit, refit_on_recording
from tracer_agents.rollout import Episode, Probing, play
from tracer_agents.tracking import TensorBoard
from tracer_env import Game, Role, TracerRewards, Verdict
from tracer_env.answers import parse_verdict

__all__ = ["CollapseGuard", "Training"]

_CHECK_QUESTIONS = 16
"""Dialogues of the last look for a collapse: enough to see that nearly no group has spread."""


class Progress(Protocol):
    """Is told how far a run is."""

    def step(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of ``what`` are done."""
        ...

    def round(self, number: int, lines: int) -> None:
        """Round ``number`` (from 0) of ``lines`` dialogues and branches is about to be played."""
        ...

    def figures(self, update: int, stats: Mapping[str, float]) -> None:
        """An update has been made."""
        ...


class _Silent:
    def step(self, what: str, done: int, total: int) -> None:
        pass

    def round(self, number: int, lines: int) -> None:
        pass

    def figures(self, update: int, stats: Mapping[str, float]) -> None:
        pass


class CollapseGuard:
    """Notices when a policy has collapsed: its reward has fallen to the floor and its groups have no spread.

    A policy that was at the floor from the start (a model that cannot do the task) has not collapsed, nor has one whose
    groups have no spread because everything is right.
    """

    def __init__(self, floor: float = -1.0, margin: float = 0.1, least_spread: float = 0.05) -> None:
        """Set the thresholds.

        Args:
            floor: the smallest possible reward.
            margin: at most this far above the floor counts as fallen, in reward units.
            least_spread: a smaller share of groups with spread counts as none.
        """
        self._floor, self._margin, self._least_spread = floor, margin, least_spread
        self.best: dict[str, float] = {}

    def check(self, policy: str, groups: Sequence[Group]) -> None:
        """Look at one update's groups of a policy.

        Raises:
            CollapseError: with what was seen.
        """
        if not groups:
            return
        reward = float(np.mean([g.rewards.mean() for g in groups]))
        spread = sum(g.has_spread for g in groups) / len(groups)
        best = self.best[policy] = max(reward, self.best.get(policy, reward))
        limit = self._floor + self._margin
        if reward <= limit < best - self._margin and spread < self._least_spread:
            raise CollapseError(
                f"the policy {policy!r} has collapsed: its mean reward fell from {best:.2f} to {reward:.2f} and "
                f"{1 - spread:.0%} of its groups have no spread."
            )


class Training:
    """One run, step by step: ``measure_before``, ``update`` for each update left, ``refit``, ``measure_after``.

    Attributes:
        config: the settings.
        run: the run directory.
        game: the game on the training split.
        controllers: what learns, by seat name.
        results: figures measured so far, by name as in ``summary.json``.
    """

    def __init__(
        self, config: TrainConfig, run: RunDirectory, *, resume: bool = False, progress: Progress | None = None
    ) -> None:
        """Load the model, open the run directory and, when resuming, the newest checkpoint.

        Raises:
            RunDirectoryError: if the directory cannot be used as asked.
            ModelFolderError: if the model cannot be loaded.
            DataNotFoundError: if the task's data cannot be found.
        """
        from tracer_agents.trainers.gspo import GspoLearner

        self.config, self.run = config, run
        self._progress: Progress = progress or _Silent()
        self._started = time.monotonic()
        self._earlier_s = 0.0  # wall time of the processes before this one, when resumed
        self.game, self._eval_game = make_games(config)
        self._kind_of_refit = kind_of_refit(config, self.game)
        self._eval_questions = evaluation_questions(self._eval_game, config.eval_questions)
        self.game.task.num_questions()  # a missing split or data set is an error now, not after the evaluation
        seats = self.game.rules.seats
        self.policies = tuple(dict.fromkeys(policy_of(config, seat) for seat in seats))
        self.controllers = {seat.name: self._new_controller() for seat in seats}
        self.model, tokenizer, self.generator = load_generator(
            config, self.policies, seed=seed_of(config.seed, "adapters")
        )
        self.learner = GspoLearner(self.model, tokenizer, self.policies, config)
        self.guard = CollapseGuard()
        self.results: dict[str, Any] = {"training": {"dialogues": 0, "tokens_generated": 0}}
        self.done = 0
        self.resumed_from: int | None = None
        run.open(config, resume=resume)
        if resume:
            self._restore()
        purge_step = None if self.resumed_from is None else self.resumed_from + 1
        self._board = TensorBoard(run.path / "tb", purge_step=purge_step)

    def run_all(self) -> dict[str, Any]:
        """Make every step that is left.

        Returns:
            The summary.
        """
        self.measure_before()
        for update in self.updates_left():
            self.update(update)
        self.refit()
        return self.measure_after()

    # --- the steps --------------------------------------------------------------------------------

    def measure_before(self) -> None:
        """Measure the untrained team and the single-agent baselines of the base model; write checkpoint 0."""
        if "before" in self.results:
            return
        self._progress.step("measure before", 0, 2)
        uniform: dict[str, Controller] = {name: make_fixed("random") for name in self.controllers}
        self._measure("before", uniform)
        self._progress.step("measure before", 1, 2)
        self._measure_single("")
        self.generator.reseed(seed_of(self.config.seed, "evaluate"))
        self.results["self_consistency_3"] = self_consistency(
            self._eval_game, self.policies[0], self.generator, self._eval_questions, samples=3
        )
        self._progress.step("measure before", 2, 2)
        self._checkpoint()

    def updates_left(self) -> range:
        """Return the numbers of the updates still to be made, from 1."""
        return range(self.done + 1, self.config.updates + 1)

    def update(self, update: int) -> dict[str, float]:
        """Play one probed batch and let both layers learn from it.

        Returns:
            Figures of the update, as logged.

        Raises:
            CollapseError: if a policy has collapsed or its loss is not a number; names the last good checkpoint.
            GeneratorError: if sampler and trainer disagree about the log-probabilities.
        """
        config, began = self.config, time.monotonic()
        self._progress.step("train both layers", update - 1, config.updates)
        episodes = self._play("train", update, config.questions_per_update, config.num_candidates)
        self.run.append_episodes(episodes, "train", update)
        self._check_collapse(episodes)
        stats = _team_stats(self.game, episodes)
        stats["rollout_s"] = time.monotonic() - began
        self._board.scalars("team", stats, update)
        if config.trains_controllers:
            self._update_controllers(episodes)
        if config.trains_generators:
            for policy in self.policies:
                learned = self._learn(policy, _groups(episodes, policy), update)
                self._board.scalars(f"generator/{policy}", learned, update)
                stats.update({f"{policy}/{name}": value for name, value in learned.items()})
        self.done = update
        self.run.append_timing({"phase": "train", "update": update, "wall_s": time.monotonic() - began, **stats})
        self._board.controllers("controller", self.controllers, update)
        self._board.transcripts("transcripts/train", episodes[:3], update)
        self._checkpoint()
        self._progress.step("train both layers", update, config.updates)
        self._progress.figures(update, stats)
        return stats

    def refit(self) -> None:
        """Learn the controllers anew on fresh questions with the generators frozen (method.md, section 4).

        Raises:
            CollapseError: if the last update has ruined a policy: nothing has looked at its texts since.
        """
        if self.config.trains_generators and self.config.updates:
            self._progress.step("look for collapse", 0, 1)
            episodes = self._play("check", self.done, _CHECK_QUESTIONS, self.config.num_candidates, "local")
            self.run.append_episodes(episodes, "check", self.done)
            self._check_collapse(episodes)
            self._progress.step("look for collapse", 1, 1)
        if self.config.trains_controllers and self.config.updates:
            self.results["cotraining_regret"] = cotraining_regret(self.controllers)
        self.results["refit"] = {"kind": self._kind_of_refit}
        if self._kind_of_refit == "recording":
            self._refit_on_recording()
        elif self._kind_of_refit == "live":
            self._refit_live()

    def _refit_on_recording(self) -> None:
        refit = refit_on_recording(
            self.config,
            self.game,
            self.generator,
            self.run.checkpoint_path(self.done) / "adapters",
            self.run.path / "refit.npz",
            on_chunk=lambda done, total: self._progress.step("record the team", done, total),
        )
        self.controllers = refit.fit.controllers()
        self.results["refit"] |= refit.figures
        self.results["training"]["dialogues"] += refit.figures["questions"]
        self.results["training"]["tokens_generated"] += refit.tokens
        self._board.history("refit", self.controllers, self.done)

    def _refit_live(self) -> None:
        self.controllers = {name: self._new_controller() for name in self.controllers}
        # rollout values come from the candidate that is played; local ones are the mean over the K candidates
        num_candidates = self.config.num_candidates if self.config.estimator == "local" else 1
        for update in range(1, self.config.refit_updates + 1):
            self._progress.step("re-fit controllers", update - 1, self.config.refit_updates)
            count = self.config.refit_questions // self.config.refit_updates
            episodes = self._play("refit", update, count, num_candidates)
            self._update_controllers(episodes)
            self.run.append_episodes(episodes, "refit", update)
            self._board.controllers("refit", self.controllers, self.done + update)
            self._progress.step("re-fit controllers", update, self.config.refit_updates)

    def measure_after(self) -> dict[str, Any]:
        """Measure the deployed team and what stands beside it, write ``final/`` and ``summary.json``.

        Returns:
            The summary.
        """
        from tracer_agents.generators.policies import save_policies

        deployed = self._deployed("greedy")
        # by name: the controllers and the temperature of every text
        teams: dict[str, tuple[Mapping[str, Controller], float]] = {"after": (deployed, 1.0)}
        if self.config.trains_controllers:
            teams["after_sampled_average"] = self._deployed("average"), 1.0
            teams["after_last_iterate"] = self._deployed("last"), 1.0
        teams["after_greedy_decoding"] = deployed, 0.0
        teams["always_speak"] = {name: make_fixed("always") for name in self.controllers}, 1.0
        for done, (name, (controllers, temperature)) in enumerate(teams.items()):
            self._progress.step("measure after", done, len(teams) + 1)
            self._measure(name, controllers, temperature)
        self._progress.step("measure after", len(teams), len(teams) + 1)
        self._measure_single("trained_")
        self._progress.step("measure after", len(teams) + 1, len(teams) + 1)
        final = self.run.path / "final"
        final.mkdir(exist_ok=True)
        save_controllers(final / "controllers.npz", self.controllers)
        save_policies(self.model, final / "adapters")
        summary = {
            **self.results,
            "task": self.config.task,
            "eval_task": self.config.evaluated_task,
            "layers": self.config.layers,
            "model": "shipped" if self.config.model is None else self.config.model,
            "seed": self.config.seed,
            "updates": self.config.updates,
            "resumed_from_update": self.resumed_from,
            "wall_s": self._wall_s(),
        }
        write_json(self.run.path / "summary.json", summary)
        self._board.close()
        return summary

    # --- playing ----------------------------------------------------------------------------------

    def _new_controller(self) -> TabularController:
        averaging = None if self.config.averaging == "usual" else self.config.averaging
        return TabularController(self.config.minimiser, averaging=averaging)

    def _deployed(self, mode: str) -> dict[str, Controller]:
        if not self.config.trains_controllers:
            return {name: make_fixed("random") for name in self.controllers}
        return {name: FrozenController(learned, mode) for name, learned in self.controllers.items()}

    def _play(
        self, phase: str, update: int, count: int, num_candidates: int, estimator: str | None = None
    ) -> list[Episode]:
        config = self.config
        seed = seed_of(config.seed, phase, update)
        estimator = estimator or config.estimator
        probing = Probing(
            num_candidates=num_candidates,
            estimator=estimator,
            rewards=TracerRewards(),
            probe_rate=config.probe_rate,
            continuations=config.continuations if estimator == "rollout" else 1,
        )
        if phase == "train":
            questions = questions_of(self.game, seed_of(config.seed, "questions"), (update - 1) * count, count)
        else:
            trained = config.updates * config.questions_per_update  # it goes on behind these
            first = trained + ((update - 1) * count if phase == "refit" else 0)
            questions = questions_of(self.game, seed_of(config.seed, "questions"), first, count)
        self.generator.reseed(seed)
        team = make_team(config, self.game, self.controllers)
        episodes = play(
            self.game,
            team,
            self.generator,
            questions,
            seed=seed,
            probing=probing,
            on_round=self._progress.round,
        )
        self.results["training"]["dialogues"] += len(episodes)
        self.results["training"]["tokens_generated"] += sum(e.tokens_generated for e in episodes)
        return episodes

    def _update_controllers(self, episodes: Sequence[Episode]) -> None:
        for name, controller in self.controllers.items():
            values: list[ControlValues] = [
                d.values for e in episodes for d in e.decisions if d.seat.name == name and d.values is not None
            ]
            controller.update(values)

    def _check_collapse(self, episodes: Sequence[Episode]) -> None:
        """Stop when the policies that have just played have collapsed: their checkpoint is not a good one."""
        try:
            for policy in self.policies:
                self.guard.check(policy, _groups(episodes, policy))
        except CollapseError as error:
            self.run.drop_checkpoint(self.done)
            raise CollapseError(f"{error} {self._advice()}") from None

    def _learn(self, policy: str, groups: Sequence[Group], update: int) -> dict[str, float]:
        try:
            learned = self.learner.update(policy, groups, seed=seed_of(self.config.seed, "learn", update))
        except CollapseError as error:
            raise CollapseError(f"{error} {self._advice()}") from error
        except GeneratorError as error:
            raise GeneratorError(
                f"{error}. If the gap is one of precision, raise --logprob-tolerance; if it is large, sampler and "
                "trainer do not compute the same function of this model (absolute positions are not supported)."
            ) from error
        return learned | _verdict_balance(groups)

    def _advice(self) -> str:
        return (
            f"The last good checkpoint is {self.run.latest_checkpoint()}. Start again in another --run-dir with a "
            f"lower --learning-rate (now {self.config.learning_rate:g}) or more --questions-per-update."
        )

    # --- measuring --------------------------------------------------------------------------------

    def _measure(self, name: str, controllers: Mapping[str, Controller], temperature: float = 1.0) -> None:
        seed = seed_of(self.config.seed, "evaluate")  # the same draws before and after: paired
        self.generator.reseed(seed)
        figures, episodes = evaluate_team(
            self._eval_game,
            make_team(self.config, self.game, controllers),
            self.generator,
            self._eval_questions,
            seed=seed,
            temperature=temperature,
            on_round=self._progress.round,
        )
        self.results[name] = figures
        self.run.append_episodes(episodes, name, self.done)
        self._board.scalars(f"evaluation/{name}", figures, self.done)

    def _measure_single(self, prefix: str) -> None:
        proposer = policy_of(self.config, self.game.rules.seats[0])
        seed = seed_of(self.config.seed, "evaluate")
        for name, temperature in (("single_greedy", 0.0), ("single_sampled", 1.0)):
            self.generator.reseed(seed)
            self.results[prefix + name] = single_call(
                self._eval_game, proposer, self.generator, self._eval_questions, temperature=temperature
            )

    # --- checkpoints ------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        from tracer_agents.generators.policies import save_policies

        self._board.flush()
        folder = self.run.begin_checkpoint(self.done)
        save_controllers(folder / "controllers.npz", self.controllers)
        save_policies(self.model, folder / "adapters")
        self.learner.save(folder / "optimizer")
        state = {
            "update": self.done,
            "results": self.results,
            "best_rewards": self.guard.best,
            "wall_s": self._wall_s(),
            "bytes": self.run.sizes(),
        }
        write_json(folder / "state.json", state)
        self.run.commit_checkpoint(self.done)

    def _restore(self) -> None:
        from tracer_agents.generators.policies import load_policies

        folder = self.run.latest_checkpoint()
        if folder is None:
            self.run.truncate({})
            return
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            self.done = self.resumed_from = state["update"]
            self.results = state["results"]
            self.guard.best = state["best_rewards"]
            self._earlier_s = state["wall_s"]
            sizes = state["bytes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {folder} cannot be read ({error!r}); delete that folder to resume from an older one."
            ) from error
        self.controllers = load_controllers(folder / "controllers.npz", list(self.controllers))
        load_policies(self.model, folder / "adapters", self.policies)
        self.learner.load(folder / "optimizer")
        self.run.truncate(sizes)

    def _wall_s(self) -> float:
        """Seconds since the run began, without the time between an interruption and its resumption."""
        return self._earlier_s + time.monotonic() - self._started


def _groups(episodes: Sequence[Episode], policy: str) -> list[Group]:
    return [g for e in episodes for g in e.groups if g.policy == policy]


def _verdict_balance(groups: Sequence[Group]) -> dict[str, float]:
    """Return the shares of RIGHT and WRONG among the reviews of a batch (the rest is unparsable); {} for proposals."""
    verdicts = [parse_verdict(c.text) for g in groups if g.meta["role"] == Role.REVIEWER for c in g.candidates]
    if not verdicts:
        return {}
    return {f"verdict_{v.lower()}_share": verdicts.count(v) / len(verdicts) for v in Verdict}


def _team_stats(game: Game, episodes: Sequence[Episode]) -> dict[str, float]:
    states = [e.state for e in episodes]
    n = len(states)
    return {
        "accuracy": sum(s.correct for s in states) / n,
        "team_return": sum(game.team_return(s) for s in states) / n,
        "tokens_spent": sum(s.tokens_spent for s in states) / n,
        "tokens_generated": sum(e.tokens_generated for e in episodes) / n,
        "branch_turns": sum(e.branch_turns for e in episodes) / n,
        "prompts_cut": sum(e.prompts_cut for e in episodes) / n,
        "truncated_texts": sum(e.truncated for e in episodes) / n,
    }
