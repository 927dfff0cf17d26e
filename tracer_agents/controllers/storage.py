"""Controllers of a team in one ``.npz``, without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers import MINIMISERS
from tracer_agents.controllers.table import TabularController
from tracer_agents.errors import CheckpointError
from tracer_env.errors import ConfigError

__all__ = ["load_controllers", "save_controllers"]

_OTHERS = ("keys", "minimiser", "profiles", "seats", "num_profiles")
"""What a file holds beside columns."""


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
    histories = [c.profiles for c in controllers.values()]
    arrays["profiles"] = _pack(histories, [len(c.infosets) for c in controllers.values()])
    arrays["seats"] = np.array(list(controllers), dtype=np.str_)
    arrays["num_profiles"] = np.array([len(history) for history in histories])
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


def _pack(histories: Sequence[Sequence[NDArray[np.float64]]], sets: Sequence[int]) -> NDArray[np.float64]:
    """Put the profiles side by side, shape (updates, sets of all seats); NaN where a set was not known yet."""
    packed = np.full((max(map(len, histories), default=0), sum(sets)), np.nan)
    column = 0
    for history, width in zip(histories, sets, strict=True):
        for t, profile in enumerate(history):
            packed[t, column : column + len(profile)] = profile
        column += width
    return packed


def load_controllers(path: str | os.PathLike[str], seats: Sequence[str]) -> dict[str, TabularController]:
    """Read what ``save_controllers`` wrote.

    Args:
        path: the file.
        seats: names of the seats; each gets a controller, empty when the file has nothing for it.

    Raises:
        CheckpointError: if the file is missing or damaged.
        ConfigError: if the file has a seat that is not asked for.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = [str(key).split("/", 1) for key in file["keys"]]
            described = json.loads(str(file["minimiser"]))
            profiles = file["profiles"]
            counts = dict(zip(map(str, file["seats"]), file["num_profiles"].tolist(), strict=True))
            columns = {name: file[name] for name in file.files if name not in _OTHERS}
        made = {seat: _make(described) for seat in seats}
        unknown = {seat for seat, _ in keys} - set(seats)
        if not unknown:
            for seat, controller in made.items():
                rows = [k for k, (owner, _) in enumerate(keys) if owner == seat]
                history = [profile[~np.isnan(profile)] for profile in profiles[: counts.get(seat, 0), rows]]
                controller.restore([keys[k][1] for k in rows], {n: c[rows] for n, c in columns.items()}, history)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"cannot read the controllers in {str(path)!r}: {error}") from error
    if unknown:
        raise ConfigError(f"{path} has controllers of {sorted(unknown)}; this team has {list(seats)}.")
    return made


def _make(described: Mapping[str, Any]) -> TabularController:
    minimiser = MINIMISERS[described["name"]](**described["settings"])
    return TabularController(minimiser, averaging=described["averaging"], default_speak=described["default_speak"])
