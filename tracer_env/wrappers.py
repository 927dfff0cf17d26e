"""The control decision alone, for learners that know nothing of texts: a feature vector in, SKIP or SPEAK out.

Only for recorded and simulated teams, whose texts come from the task. Owns no rules: episodes are the game's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from numbers import Real
from typing import Any, Final, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.wrappers import BaseWrapper

from tracer_env.errors import ActionError, ConfigError, UnknownNameError
from tracer_env.face import Face
from tracer_env.game import Game
from tracer_env.infosets import FEATURES, feature_vector
from tracer_env.rendering import RENDER_MODES, render, render_ansi, show
from tracer_env.types import Action, Control, DialogueState, Seat

__all__ = ["FEATURE_UNITS", "Others", "control_view", "scale_features"]

# shape legend: F features, A agents

_UNITS = {"votes": 4, "rounds_left": 8, "proposals": 4, "length": 256, "min_logprob": 8, "tokens_spent": 1024}

FEATURE_UNITS: Final[NDArray[np.float32]] = np.array([_UNITS.get(f.name, 1) for f in FEATURES], dtype=np.float32)
"""What each feature is divided by, shape (F,): fixed numbers, so that most values lie within [-1, 1] and a policy that
was learned on one game reads another one alike. Not bounds: a dialogue of 4,096 tokens has the value 4."""

Others = float | Mapping[tuple[Seat, str], float] | Callable[[Seat, str, NDArray[np.float32], tuple[bool, bool]], float]
"""P(SPEAK) of the seats that do not learn: everywhere; by (seat, information set), 0.5 where missing; or a function of
seat, information set, features (unscaled) and mask. As in ``tracer_env.exact.evaluate``."""

_MASK_PLACES = ("observation", "info")


def scale_features(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features in the units that a control view shows.

    Args:
        features: as in ``FEATURES``, float32, shape (..., F).
    """
    return features / FEATURE_UNITS


def control_view(
    env: Any,
    seat: str | None = None,
    *,
    mask: Literal["observation", "info"] = "observation",
    others: Others | None = None,
) -> Any:
    """Return the game of an environment as a problem of binary decisions.

    Actions are ``Discrete(2)`` (0 SKIP, 1 SPEAK) and observations the scaled features, a float32 ``Box`` of shape (F,),
    alike for all agents. A masked SKIP is played as SPEAK; the action of a seat that does not act (mask [1, 0]) is
    ignored. Infos hold numbers only.

    Args:
        env: an environment of this package whose task is recorded or simulated, in either face.
        seat: None for all seats: a PettingZoo environment of the same face, with ``state()`` (all agents' features,
            shape (A * F,)). A seat's name for a ``gymnasium.Env`` in which the others play by ``others``; its steps are
            the seat's turns, and a step returns all that the seat is paid up to its next turn, the first one also what
            it was paid before. An episode that ends before the seat's first turn still takes one step.
        mask: where the mask of (SKIP, SPEAK) goes, int8, shape (2,): ``"observation"`` makes observations a dict of
            ``observation`` and ``action_mask``; ``"info"`` leaves them a plain array and puts ``action_mask`` into the
            infos. The single seat's view also answers ``action_masks()``.
        others: how the other seats play; only with ``seat``. By default they always SPEAK.

    Returns:
        An ``AECEnv`` that steps ``env``, or a ``ParallelEnv`` or a ``gymnasium.Env`` that play the same game on their
        own (the parallel face would build every seat's prompt) and leave ``env`` where it is.

    Raises:
        ConfigError: if the task needs a generator, or an argument is not one of those above.
        UnknownNameError: if there is no such seat.
    """
    face = getattr(env, "unwrapped", env)
    if isinstance(env, _TurnView):
        raise ConfigError("this is a control view already.")
    if not isinstance(face, Face):
        raise ConfigError(f"control_view needs an environment of tracer_env, not {type(face).__name__}.")
    if not face.game.scripted:
        raise ConfigError(
            f"task {face.game.task.name!r} needs a generator to write its texts; control_view plays 'recorded:' and "
            "'simulated:' games. Record it with: tracer record"
        )
    if mask not in _MASK_PLACES:
        raise UnknownNameError("place of the mask", mask, _MASK_PLACES)
    if seat is not None:
        if seat not in face.possible_agents:
            raise UnknownNameError("seat", seat, face.possible_agents)
        if not (others is None or callable(others) or isinstance(others, Mapping)) and not _is_prob(others):
            raise ConfigError(f"others= must be a probability of SPEAK in [0, 1], or a policy, not {others!r}.")
        return _SeatView(face.game, seat, mask, 1.0 if others is None else others, face.render_mode)
    if others is not None:
        raise ConfigError("others= says how the seats play that do not learn: name the one that does with seat=.")
    return _TurnView(env, mask) if isinstance(face, AECEnv) else _RoundView(face.game, mask, face.render_mode)


def _is_prob(value: Any) -> bool:
    return isinstance(value, Real) and 0.0 <= float(value) <= 1.0


class _Spaces:
    """The spaces and what is put into them, the same for every agent."""

    def __init__(self, game: Game, mask: str) -> None:
        self.game, self.mask_in_observation = game, mask == "observation"
        self.seats = {seat.name: seat for seat in game.rules.seats}
        low = scale_features(np.array([f.low for f in FEATURES], dtype=np.float32))
        high = scale_features(np.array([f.high for f in FEATURES], dtype=np.float32))
        everyone = len(self.seats)
        self.state = spaces.Box(np.tile(low, everyone), np.tile(high, everyone), dtype=np.float32)
        self.observations: dict[str, spaces.Space[Any]] = {}
        self.actions: dict[str, spaces.Space[Any]] = {}
        for name in self.seats:
            box = spaces.Box(low, high, dtype=np.float32)
            mask_box = spaces.Box(0, 1, (2,), np.int8)
            with_mask = spaces.Dict({"observation": box, "action_mask": mask_box})
            self.observations[name] = with_mask if self.mask_in_observation else box
            self.actions[name] = spaces.Discrete(2)

    def features(self, state: DialogueState, seat: Seat) -> NDArray[np.float32]:
        return scale_features(feature_vector(self.game.rules, state, seat))

    def observation(self, state: DialogueState, seat: Seat, mask: NDArray[np.int8]) -> Any:
        features = self.features(state, seat)
        return {"observation": features, "action_mask": mask} if self.mask_in_observation else features

    def info(self, mask: NDArray[np.int8]) -> dict[str, NDArray[np.int8]]:
        return {} if self.mask_in_observation else {"action_mask": mask}

    def everything(self, state: DialogueState) -> NDArray[np.float32]:
        return np.concatenate([self.features(state, seat) for seat in self.seats.values()])


class _TurnView(BaseWrapper[str, Any, Any]):
    """The turn-by-turn view: steps the environment with empty texts, which a scripted game ignores."""

    def __init__(self, env: AECEnv[str, Any, Any], mask: str) -> None:
        super().__init__(env)
        self._spaces = _Spaces(env.unwrapped.game, mask)
        self.observation_spaces, self.action_spaces = self._spaces.observations, self._spaces.actions
        self.state_space = self._spaces.state

    @property
    def infos(self) -> dict[str, dict[str, Any]]:
        """Return the infos of the live agents."""
        return {agent: self._spaces.info(self._mask(agent)) for agent in self.env.infos}

    def _mask(self, agent: str) -> NDArray[np.int8]:
        info = self.env.infos.get(agent)  # an agent whose episode has ended has none
        return np.array([1, 0], dtype=np.int8) if info is None else info["action_mask"]["control"]

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.action_spaces[agent]

    def observe(self, agent: str) -> Any:
        return self._spaces.observation(self.unwrapped.dialogue, self._spaces.seats[agent], self._mask(agent))

    def state(self) -> NDArray[np.float32]:
        return self._spaces.everything(self.unwrapped.dialogue)

    def step(self, action: Any) -> None:
        self.env.step(None if action is None else {"control": action})

    def fork(self) -> _TurnView:
        """Return another branch of the game, seen alike; see ``Face.fork``."""
        branch = copy(self)
        branch.env = self.env.fork()
        return branch


class _Playing:
    """An episode of a scripted game that is played by controls alone."""

    def __init__(self, game: Game, render_mode: str | None) -> None:
        self.game, self.render_mode = game, render_mode
        self.acting: tuple[Seat, ...] = ()
        self._state: DialogueState | None = None

    @property
    def state(self) -> DialogueState:
        if self._state is None:
            raise ActionError("there is no episode yet; call reset() first.")
        return self._state

    def start(self, rng: np.random.Generator, options: Mapping[str, Any] | None) -> None:
        self._enter(self.game.start(self.game.draw_question(rng, options)))

    def play(self, actions: Mapping[Seat, Action]) -> dict[Seat, float]:
        """Play one round, and return what each seat is paid for it."""
        before = self.state
        after = self.game.advance(before, actions)
        pay = self.game.pay(before, after)  # may raise: nothing has changed yet
        self._enter(after)
        return pay

    def _enter(self, state: DialogueState) -> None:
        self._state, self.acting = state, self.game.acting(state)
        if self.render_mode == "human":
            self.render()

    def mask(self, seat: Seat) -> NDArray[np.int8]:
        return np.array(self.game.mask(self.state, seat, seat in self.acting), dtype=np.int8)

    def parse(self, seat: Seat, action: Any) -> Action:
        return self.game.parse_action(seat.name, {"control": action})

    def render(self) -> str | None:
        if self.render_mode == "human":
            show(self.state)
            return None
        return render(self.state) if self.render_mode is None else render_ansi(self.state)


class _RoundView(ParallelEnv[str, Any, Any]):
    """The round-by-round view. All agents live until the end, and all are in every dict."""

    metadata = {"render_modes": RENDER_MODES, "name": "tracer_control_v0"}  # noqa: RUF012

    def __init__(self, game: Game, mask: str, render_mode: str | None) -> None:
        self.game, self.render_mode = game, render_mode
        self._playing = _Playing(game, render_mode)
        self._spaces = _Spaces(game, mask)
        self.observation_spaces, self.action_spaces = self._spaces.observations, self._spaces.actions
        self.state_space = self._spaces.state
        self.possible_agents = list(self._spaces.seats)
        self.agents: list[str] = []
        self._rng = np.random.default_rng()

    @property
    def dialogue(self) -> DialogueState:
        """The current state of the game (immutable)."""
        return self._playing.state

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.action_spaces[agent]

    def state(self) -> NDArray[np.float32]:
        return self._spaces.everything(self.dialogue)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._playing.start(self._rng, options)
        self.agents = list(self.possible_agents)
        return self._views()

    def _views(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        observations, infos = {}, {}
        for name, seat in self._spaces.seats.items():
            mask = self._playing.mask(seat)
            observations[name] = self._spaces.observation(self.dialogue, seat, mask)
            infos[name] = self._spaces.info(mask)
        return observations, infos

    def fork(self) -> _RoundView:
        """Return another branch of the game; see ``Face.fork``."""
        branch = copy(self)
        branch._playing, branch.agents, branch._rng = copy(self._playing), list(self.agents), deepcopy(self._rng)
        return branch

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        if not self.agents:
            raise ActionError("no episode is running; call reset() before acting.")
        missing = [seat.name for seat in self._playing.acting if seat.name not in actions]
        if missing:
            raise ActionError(f"round {self.dialogue.round} needs an action of {missing}; got {sorted(actions)}.")
        pay = self._playing.play({seat: self._playing.parse(seat, actions[seat.name]) for seat in self._playing.acting})
        state = self.dialogue
        if state.over:
            self.agents = []
        observations, infos = self._views()
        rewards = {seat.name: value for seat, value in pay.items()}
        terminations = dict.fromkeys(self.possible_agents, state.over and not state.truncated)
        truncations = dict.fromkeys(self.possible_agents, state.truncated)
        return observations, rewards, terminations, truncations, infos

    def render(self) -> str | None:
        return self._playing.render()

    def close(self) -> None:
        """There is nothing to release."""


class _SeatView(gymnasium.Env[Any, Any]):
    """One seat's turns; everything between them happens inside ``step``."""

    metadata = {"render_modes": RENDER_MODES}  # noqa: RUF012

    def __init__(self, game: Game, seat: str, mask: str, others: Others, render_mode: str | None) -> None:
        self.game, self.render_mode = game, render_mode
        self._playing = _Playing(game, render_mode)
        self._spaces = _Spaces(game, mask)
        self._seat, self._others = self._spaces.seats[seat], others
        self.observation_space, self.action_space = self._spaces.observations[seat], self._spaces.actions[seat]
        self._paid = 0.0  # since the seat's last step
        self._stepped_to_end = True

    @property
    def dialogue(self) -> DialogueState:
        """The current state of the game (immutable)."""
        return self._playing.state

    def fork(self) -> _SeatView:
        """Return another branch of the game, in which the others draw the same numbers; see ``Face.fork``."""
        branch = copy(self)
        branch._playing, branch.np_random = copy(self._playing), deepcopy(self.np_random)
        return branch

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which of SKIP and SPEAK may be played now, bool, shape (2,): what sb3-contrib asks for."""
        return self._playing.mask(self._seat).astype(np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, NDArray[np.int8]]]:
        super().reset(seed=seed)
        self._playing.start(self.np_random, options)
        self._paid, self._stepped_to_end = 0.0, False
        self._go_to_turn()
        return self._view()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, NDArray[np.int8]]]:
        if self._stepped_to_end:
            raise ActionError("no episode is running; call reset() before acting.")
        own = self._playing.parse(self._seat, action)
        if not self.dialogue.over:
            self._play_round(own)
            self._go_to_turn()
        paid, self._paid = self._paid, 0.0
        state = self.dialogue
        self._stepped_to_end = state.over
        observation, info = self._view()
        return observation, paid, state.over and not state.truncated, state.truncated, info

    def _go_to_turn(self) -> None:
        while not self.dialogue.over and self._seat not in self._playing.acting:
            self._play_round(None)

    def _play_round(self, own: Action | None) -> None:
        actions = {
            seat: own if own is not None and seat == self._seat else Action(self._choose(seat))
            for seat in self._playing.acting
        }
        self._paid += self._playing.play(actions)[self._seat]

    def _choose(self, seat: Seat) -> Control:
        state, mask = self.dialogue, self.game.mask(self.dialogue, seat)
        if not mask[Control.SKIP]:
            return Control.SPEAK
        if callable(self._others):
            features = feature_vector(self.game.rules, state, seat)
            speak_prob = self._others(seat, self.game.infoset(state, seat), features, mask)
        elif isinstance(self._others, Mapping):
            speak_prob = self._others.get((seat, self.game.infoset(state, seat)), 0.5)
        else:
            speak_prob = float(self._others)
        if not _is_prob(speak_prob):
            raise ConfigError(f"others= gave {seat.name} the probability {speak_prob!r} of SPEAK.")
        return Control.SPEAK if self.np_random.random() < speak_prob else Control.SKIP

    def _view(self) -> tuple[Any, dict[str, NDArray[np.int8]]]:
        mask = self._playing.mask(self._seat)
        return self._spaces.observation(self.dialogue, self._seat, mask), self._spaces.info(mask)

    def render(self) -> Any:
        return self._playing.render()
