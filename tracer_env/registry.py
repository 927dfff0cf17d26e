"""Task names: which name loads what, resolved only when a task is asked for."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from tracer_env.errors import ConfigError, SplitError, UnknownNameError
from tracer_env.tasks.base import Task

__all__ = ["load_task", "names_a_file", "names_a_script", "register_task"]

_ENTRY_POINTS = {
    "arithmetic": "tracer_env.tasks.arithmetic:ArithmeticTask",
    "gpqa_diamond": "tracer_env.tasks.gpqa:GpqaDiamondTask",
    "gsm8k": "tracer_env.tasks.gsm8k:Gsm8kTask",
    "math500": "tracer_env.tasks.math500:Math500Task",
}
_SCRIPTED = {
    "recorded": "tracer_env.tasks.recorded:RecordedTask",
    "simulated": "tracer_env.tasks.simulated:SimulatedTask",
}
"""Prefixes of tasks that bring every utterance themselves: ``recorded:<name or path>``, ``simulated:<name>``."""

_DEFAULT_SPLIT = "train"


def register_task(name: str, entry_point: str) -> None:
    """Make a task known by a name. Nothing is imported until ``load_task`` asks for it.

    Args:
        name: the exact name; no path separator, no colon, and no ``.jsonl`` ending, which would look like a file.
        entry_point: ``"module:attribute"`` of a callable ``(split=..., data_dir=...)`` that returns a ``Task``.

    Raises:
        ConfigError: if one of the two is malformed, or the name is taken by another entry point.
    """
    if not name or _looks_like_path(name) or ":" in name:
        raise ConfigError(f"task name {name!r} must be non-empty, without '/', ':' and the ending '.jsonl'.")
    module, _, attribute = entry_point.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ConfigError(f"entry_point must be 'module:attribute', not {entry_point!r}.")
    if _ENTRY_POINTS.get(name, entry_point) != entry_point:
        raise ConfigError(f"task name {name!r} is taken by {_ENTRY_POINTS[name]!r}; choose another name.")
    _ENTRY_POINTS[name] = entry_point


def load_task(
    task: str | os.PathLike[str] | Task,
    split: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Task:
    """Return a task. Its data is read when its first question is asked for, not here.

    Args:
        task: an exact registered name; ``recorded:<shipped recording or path>`` or ``simulated:<team>``; a path to a
            JSONL file (any path object; a string that ends in ``.jsonl``,
            has a path separator or names a file); or a ``Task``, which is returned as it is.
        split: which part of the data, ``"train"`` by default. For a JSONL file a label; for a ``Task`` it must be
            left out or be the object's own.
        data_dir: folder with the data of a named task; None looks at ``TRACER_DATA_DIR``, then at the Hugging Face
            hub. A JSONL file and a ``Task`` have no data folder.

    Raises:
        UnknownNameError: if no task has the name; the nearest is suggested.
        SplitError: if the task does not have the split.
        ConfigError: if an argument does not fit the kind of task, or an entry point cannot be resolved.
    """
    if isinstance(task, str) and task in _ENTRY_POINTS:
        return _make(task, split or _DEFAULT_SPLIT, data_dir)
    if isinstance(task, str) and (prefix := _scripted_prefix(task)):
        return _load_scripted(prefix, task, split, data_dir)
    if isinstance(task, (str, os.PathLike)):
        return _load_file(task, split or _DEFAULT_SPLIT, data_dir)
    if not isinstance(task, Task):
        raise ConfigError(f"task must be a name, a path or a Task, not an object of type {type(task).__name__}.")
    if data_dir is not None:
        raise ConfigError("data_dir must be left out when task is an object: it brings its own data.")
    if split not in (None, task.split):
        raise ConfigError(f"split must be left out when task is an object: it has the split {task.split!r}.")
    return task


def names_a_script(task: object) -> bool:
    """Return whether ``task`` names a recorded or simulated game.

    Raises:
        UnknownNameError: if it would but for its capitals.
    """
    return isinstance(task, str) and _scripted_prefix(task) is not None


def _scripted_prefix(name: str) -> str | None:
    prefix, colon, rest = name.partition(":")
    if colon and prefix not in _SCRIPTED and prefix.lower() in _SCRIPTED:
        raise UnknownNameError("task", name, (f"{prefix.lower()}:{rest}",))
    return prefix if colon and prefix in _SCRIPTED else None


def _load_scripted(prefix: str, name: str, split: str | None, data_dir: str | os.PathLike[str] | None) -> Task:
    if data_dir is not None:
        raise ConfigError(f"data_dir must be left out for {name!r}: it brings its own data.")
    made: Task = _entry(name, _SCRIPTED[prefix])(name.removeprefix(prefix + ":"))
    if split not in (None, made.split):
        raise SplitError(f"split must be left out for {name!r}: it has the split {made.split!r}.")
    return made


def _load_file(task: str | os.PathLike[str], split: str, data_dir: str | os.PathLike[str] | None) -> Task:
    if isinstance(task, str):
        if not _looks_like_path(task) and not Path(task).is_file():
            raise UnknownNameError("task", task, (*_ENTRY_POINTS, *(f"{prefix}:<name>" for prefix in _SCRIPTED)))
    if data_dir is not None:
        raise ConfigError(f"data_dir must be left out when task is a path ({os.fspath(task)!r}).")
    from tracer_env.tasks.jsonl import JsonlTask  # here, so that importing the registry imports no task

    return JsonlTask(task, split=split)


def names_a_file(task: str) -> bool:
    """Return whether ``load_task`` takes this string for the path of a JSONL file and not for a task's name."""
    return task not in _ENTRY_POINTS and not _scripted_prefix(task) and (_looks_like_path(task) or Path(task).is_file())


def _looks_like_path(name: str) -> bool:
    return name.endswith(".jsonl") or "/" in name or os.sep in name


def _make(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Task:
    entry_point = _ENTRY_POINTS[name]
    made = _entry(name, entry_point)(split=split, data_dir=data_dir)
    if not isinstance(made, Task):
        raise ConfigError(f"task {name!r}: {entry_point!r} returned a {type(made).__name__}, which is not a Task.")
    return made


def _entry(name: str, entry_point: str) -> Any:
    module, _, attribute = entry_point.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"task {name!r} is registered as {entry_point!r}, which cannot be imported.") from error
