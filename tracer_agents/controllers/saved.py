"""Learned baselines of a team in one ``.npz``, without pickle. Regret tables have ``storage`` for this.

The file holds the header ``team``, a JSON text, and the arrays of every controller as ``<its number>/<name>``::

    {"format": 1, "seats": {"proposer_0": 0, ...}, "controllers": [{"kind": "ppo", "given": {...}}, ...]}

Seats that share an object share its number, and share one object again after loading. What a file names is looked up
in the kinds below and never imported. A loaded controller plays as the saved one did and learns on as it would have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.fixed import FixedController, ProposeReviewRevise
from tracer_agents.controllers.neural import (
    AdvantageNetwork,
    AdvantageSettings,
    RegretRegression,
    RegretRegressionSettings,
)
from tracer_agents.controllers.ppo import PPOController, PPOSettings
from tracer_agents.controllers.q_learning import QLearningController, QLearningSettings
from tracer_agents.controllers.reference import ReferenceController
from tracer_agents.controllers.reinforce import ReinforceController, ReinforceSettings
from tracer_agents.controllers.states import UNREADABLE, State, check_state
from tracer_agents.controllers.thresholds import ThresholdController, ThresholdRule
from tracer_agents.errors import CheckpointError
from tracer_agents.interfaces import Controller
from tracer_env.errors import ConfigError, UnknownNameError

__all__ = ["load_learned", "save_learned"]

_FORMAT = 1


class _Learner(Controller, Protocol):
    def state(self) -> State: ...
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None: ...


class _Kind(NamedTuple):
    """One class that can be saved: what its objects were made with, as JSON, and how to make one again."""

    of: type[Any]
    given: Callable[[Any], dict[str, Any]]
    make: Callable[[dict[str, Any]], Controller]
    learns: bool = True  # it has a state; else it is all in ``given``


def _with_settings(of: type[Any], settings: type[Any]) -> _Kind:
    def make(given: dict[str, Any]) -> Controller:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        made: Controller = of(settings(**values))
        return made

    return _Kind(of, lambda controller: asdict(controller.settings), make)


def _thresholds(given: dict[str, Any]) -> Controller:
    rules = {role: ThresholdRule(**given[role]) for role in ("proposer", "reviewer")}
    return ThresholdController(**{**given, **rules})


_KINDS: Mapping[str, _Kind] = {
    "q_learning": _with_settings(QLearningController, QLearningSettings),
    "reinforce": _with_settings(ReinforceController, ReinforceSettings),
    "ppo": _with_settings(PPOController, PPOSettings),
    "advantage_network": _with_settings(AdvantageNetwork, AdvantageSettings),
    "regret_regression": _with_settings(RegretRegression, RegretRegressionSettings),
    "reference": _Kind(ReferenceController, lambda c: {}, lambda given: ReferenceController(**given)),
    "thresholds": _Kind(
        ThresholdController,
        lambda c: {"feature": c.feature, "proposer": asdict(c.proposer), "reviewer": asdict(c.reviewer)},
        _thresholds,
        learns=False,
    ),
    "fixed": _Kind(
        FixedController,
        lambda c: {"speak_prob": c.probability},
        lambda given: FixedController(**given),
        learns=False,
    ),
    "propose_review_revise": _Kind(
        ProposeReviewRevise,
        lambda c: {"first_proposals": c.first_proposals},
        lambda given: ProposeReviewRevise(**given),
        learns=False,
    ),
}


def _learns(controller: Controller, kind: _Kind) -> TypeGuard[_Learner]:
    return kind.learns


def _kind_of(controller: Controller) -> str:
    for name, kind in _KINDS.items():
        if type(controller) is kind.of:  # a subclass would come back as its base
            return name
    raise ConfigError(
        f"a {type(controller).__name__} is none of {', '.join(_KINDS)} and cannot be saved here. Save the controller "
        "that a wrapper plays, and regret tables with storage.save_controllers."
    )


def save_learned(path: str | os.PathLike[str], controllers: Mapping[str, Controller]) -> None:
    """Write the controllers of a team.

    Args:
        path: the file.
        controllers: by seat name; seats may share an object.

    Raises:
        ConfigError: if one is of a class that cannot be saved.
        CheckpointError: if one has numbers that are not finite, with which it could not be loaded again.
    """
    objects = list({id(controller): controller for controller in controllers.values()}.values())
    numbers = {id(controller): number for number, controller in enumerate(objects)}
    described: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for number, controller in enumerate(objects):
        kind = _KINDS[name := _kind_of(controller)]
        described.append({"kind": name, "given": kind.given(controller)})
        if _learns(controller, kind):
            state = controller.state()
            check_state(state, state)
            arrays.update({f"{number}/{key}": array for key, array in state.items()})
    seats = {seat: numbers[id(controller)] for seat, controller in controllers.items()}
    header = json.dumps({"format": _FORMAT, "seats": seats, "controllers": described})
    with open(path, "wb") as file:
        np.savez(file, team=np.array(header), **arrays)


def load_learned(path: str | os.PathLike[str]) -> dict[str, Controller]:
    """Read what ``save_learned`` wrote.

    Args:
        path: the file.

    Returns:
        The controllers by seat name.

    Raises:
        CheckpointError: if the file is missing, damaged or not such a file; names it and what is wrong.
        MissingExtraError: if a controller needs torch, which is not installed.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if "team" not in arrays:
            raise CheckpointError("it holds no learned controllers (regret tables: storage.load_controllers).")
        header = json.loads(str(arrays.pop("team")))
        if header["format"] != _FORMAT:
            raise CheckpointError(f"it has format {header['format']!r}; this version reads {_FORMAT}.")
        objects = [_load(described, _own(arrays, k)) for k, described in enumerate(header["controllers"])]
        if arrays:
            raise CheckpointError(f"the arrays {sorted(arrays)} belong to no controller.")
        by_number = dict(enumerate(objects))
        return {seat: by_number[number] for seat, number in header["seats"].items()}
    except UNREADABLE as error:
        raise CheckpointError(f"cannot read the controllers in {str(path)!r}: {error}") from error


def _own(arrays: State, number: int) -> State:
    """Take one controller's arrays out."""
    prefix = f"{number}/"
    return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


def _load(described: Mapping[str, Any], state: State) -> Controller:
    name = described["kind"]
    if name not in _KINDS:
        raise UnknownNameError("kind of controller", name, _KINDS)
    kind = _KINDS[name]
    controller = kind.make(described["given"])
    if _learns(controller, kind):
        controller.load_state(state)
    else:
        check_state(state, {})
    return controller
