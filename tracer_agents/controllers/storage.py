"""Controllers of a team in one ``.npz``, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers import MINIMISERS
from tracer_agents.controllers.states import UNREADABLE
from tracer_agents.controllers.table import HISTORY, TabularController
from tracer_agents.errors import CheckpointError
from tracer_env.errors import ConfigError

__all__ = ["load_controllers", "save_controllers"]


def save_controllers(path: str | os.PathLike[str], controllers: Mapping[str, TabularController]) -> None:
    """Write the tables of several seats into one file, keys as ``<seat>/<infoset>``.

    Args:
        path: the file.
        controllers: by seat name; all with the same minimiser.

    Raises:
        ConfigError: if they differ in their minimiser, or it is none of ours and could not be read again.
    """
    described = {json.dumps(_describe(c), sort_keys=True) for c in controllers.values()}
    if len(described) != 1:
        raise ConfigError("one file holds controllers with one minimiser; these have several.")
    keys = [f"{seat}/{infoset}" for seat, c in controllers.items() for infoset in c.infosets]
    first = next(iter(controllers.values()))
    arrays: dict[str, Any] = {
        name: np.concatenate([c.column(name) for c in controllers.values()]) for name in first.table.columns
    }
    arrays["seats"] = np.array(list(controllers), dtype=np.str_)
    arrays["stale"] = np.array([c.stale for c in controllers.values()], dtype=np.int64)
    for name in HISTORY:
        histories = [c.history[name] for c in controllers.values()]
        arrays[f"{name}_updates"] = np.array([len(history) for history in histories], dtype=np.int64)
        rows = [row for history in histories for row in history]
        arrays[f"{name}_lengths"] = np.array([len(row) for row in rows], dtype=np.int64)
        arrays[f"{name}_flat"] = np.concatenate([np.zeros(0), *rows])
    with open(path, "wb") as file:
        np.savez(file, keys=np.array(keys, dtype=np.str_), minimiser=np.array(described.pop()), **arrays)


def _describe(controller: TabularController) -> dict[str, Any]:
    minimiser = controller.table.minimiser
    ours: object = MINIMISERS.get(minimiser.name)
    if type(minimiser) is not ours:
        raise ConfigError(
            f"minimiser {minimiser.name!r} is none of {', '.join(MINIMISERS)} and cannot be saved by name."
        )
    return {
        "name": minimiser.name,
        "settings": vars(minimiser),
        "averaging": controller.table.averaging,
        "default_speak": controller.default_speak,
    }


def _histories(file: Mapping[str, NDArray[Any]], name: str) -> dict[str, list[NDArray[np.float64]]]:
    """Return one history of every seat in the file."""
    rows = (
        np.split(file[f"{name}_flat"], np.cumsum(file[f"{name}_lengths"])[:-1]) if len(file[f"{name}_lengths"]) else []
    )
    ends = np.cumsum(file[f"{name}_updates"]).tolist()
    return {
        str(seat): rows[end - count : end]
        for seat, end, count in zip(file["seats"], ends, file[f"{name}_updates"].tolist(), strict=True)
    }


def load_controllers(path: str | os.PathLike[str], seats: Sequence[str] | None = None) -> dict[str, TabularController]:
    """Read what ``save_controllers`` wrote.

    Args:
        path: the file.
        seats: names of the seats, by default those of the file; each gets a controller, empty when the file has nothing
            for it.

    Raises:
        CheckpointError: if the file is missing or damaged.
        ConfigError: if the file has a seat that is not asked for.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = [str(key).split("/", 1) for key in file["keys"]]
            described = json.loads(str(file["minimiser"]))
            histories = {name: _histories(file, name) for name in HISTORY}
            columns = {name: file[name] for name in file.files}
            saved = [str(seat) for seat in file["seats"]]
            stale = dict(zip(saved, file["stale"].tolist(), strict=True))
        made = {seat: _make(described) for seat in (saved if seats is None else seats)}
        unknown = {seat for seat, _ in keys} - set(made)
        if not unknown:
            for seat, controller in made.items():
                rows = [k for k, (owner, _) in enumerate(keys) if owner == seat]
                history = {name: histories[name].get(seat, []) for name in HISTORY}
                own = {name: columns[name][rows] for name in controller.table.columns}
                controller.restore([keys[k][1] for k in rows], own, history, stale.get(seat, 0))
    except UNREADABLE as error:
        raise CheckpointError(f"cannot read the controllers in {str(path)!r}: {error}") from error
    if unknown:
        raise ConfigError(f"{path} has controllers of {sorted(unknown)}; this team has {list(made)}.")
    return made


def _make(described: Mapping[str, Any]) -> TabularController:
    minimiser = MINIMISERS[described["name"]](**described["settings"])
    return TabularController(minimiser, averaging=described["averaging"], default_speak=described["default_speak"])
