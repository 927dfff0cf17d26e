"""The run directory: settings, episodes as they finish, checkpoints and the summary. Plain JSON, no pickle."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tracer_agents.config import TrainConfig
from tracer_agents.errors import CheckpointError, RunDirectoryError
from tracer_agents.rollout import Episode
from tracer_env.errors import TracerError

__all__ = ["RunDirectory", "episode_record", "read_json_object", "software", "write_json"]

_APPENDED = ("episodes.jsonl", "timing.jsonl")
_PACKAGES = ("tracer-env", "numpy", "gymnasium", "pettingzoo", "torch", "transformers", "trl", "peft", "accelerate")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never half of one."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def software() -> dict[str, Any]:
    """Return the versions of everything that decides results, and the commit when run from a checkout."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"python": platform.python_version(), "packages": versions, "commit": _commit()}


def read_json_object(path: Path, problem: str, error_class: type[TracerError]) -> dict[str, Any]:
    """Read a file that must hold one JSON object.

    Args:
        path: the file.
        problem: ends the error message: what it means or what to do.
        error_class: of the error to raise.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_class(f"{path} cannot be read ({error}): {problem}.") from error
    if not isinstance(value, dict):
        raise error_class(f"{path} must hold one JSON object, not a {type(value).__name__}: {problem}.")
    return value


def _commit() -> str | None:
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None  # an installed package; a git repository that happens to be around it says nothing
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+uncommitted" if dirty.stdout.strip() else "")


def episode_record(episode: Episode, phase: str, update: int) -> dict[str, Any]:
    """Return one line of ``episodes.jsonl``: everything that was said and paid, and no times.

    Args:
        episode: a finished episode.
        phase: ``"train"``, ``"refit"`` or the name of an evaluation.
        update: number of the update it belongs to.
    """
    state = episode.state
    seed, position = episode.seed
    return {
        "episode_id": f"{phase}-{update:06d}-{position:05d}",
        "phase": phase,
        "update": update,
        "question_id": state.question.question_id,
        "seed": [seed, position],
        "turns": [
            {
                "round": turn.round,
                "agent": turn.seat.name,
                "control": int(turn.control),
                "utterance": str(turn.utterance),
                "answer": turn.answer,
                "verdict": None if turn.verdict is None else turn.verdict.value,
                "tokens_in": turn.tokens_in,
                "tokens_out": turn.tokens_out,
                "reward": reward,
                "infoset": infoset,
            }
            for turn, reward, infoset in zip(state.turns, episode.rewards, episode.infosets, strict=True)
        ],
        "final": state.answer,
        "correct": state.correct,
        "error": None,
    }


class RunDirectory:
    """One run's folder.

    Layout: ``config.json manifest.json episodes.jsonl timing.jsonl summary.json tb/ checkpoints/<6-digit update>/
    final/controllers.npz final/adapters/<policy>/adapter_model.safetensors``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the folder; nothing is created yet."""
        self.path = Path(path)

    # --- opening -------------------------------------------------------------------------------------------------

    def open(self, config: TrainConfig, *, resume: bool) -> None:
        """Create the folder, or check that it can be resumed with these settings.

        Args:
            config: the settings of this run.
            resume: continue what is there; on nothing, start fresh.

        Raises:
            RunDirectoryError: if it is not empty and ``resume`` is not asked for, is not a run, or has other settings.
        """
        self.check_free(resume=resume)
        if self._has_content():
            self.check_same(config)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", config.to_json())
        write_json(self.path / "manifest.json", software())

    def _has_content(self) -> bool:
        """A half-written first file is nothing: the run had not begun."""
        return self.path.exists() and any(path.suffix != ".part" for path in self.path.iterdir())

    def check_free(self, *, resume: bool) -> None:
        """Check that a run may be written here, before anything slow is loaded.

        Raises:
            RunDirectoryError: if the folder is a file, or is not empty and ``resume`` is not asked for.
        """
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise RunDirectoryError(f"{path} is a file; choose a folder as --run-dir.")
        if self._has_content() and not resume:
            raise RunDirectoryError(
                f"{self.path} is not empty. Continue that run with --resume, or choose another --run-dir."
            )

    def check_same(self, config: TrainConfig) -> None:
        """Check that the run was started with these settings.

        Raises:
            RunDirectoryError: naming every setting that differs, then and now; or if this is no run directory.
        """
        old = self.settings()
        new = config.to_json()
        different = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if different:
            what = ", ".join(f"{key}: {old.get(key)!r} then, {new.get(key)!r} now" for key in sorted(different))
            raise RunDirectoryError(
                f"{self.path} was started with other settings ({what}). Resume it with the same ones, "
                f"or choose another --run-dir."
            )

    def settings(self) -> dict[str, Any]:
        """Return the settings that the run was started with.

        Raises:
            RunDirectoryError: if there are none: this is no run directory.
        """
        return read_json_object(self.path / "config.json", f"{self.path} is not a run directory", RunDirectoryError)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None.

        Raises:
            RunDirectoryError: if the file is damaged.
        """
        path = self.path / "summary.json"
        if not path.exists():
            return None
        return read_json_object(path, "delete it to measure again with --resume", RunDirectoryError)

    # --- episodes --------------------------------------------------------------------------------------------------

    def append_episodes(self, episodes: Iterable[Episode], phase: str, update: int) -> None:
        """Append finished episodes, one line each, and flush them to the disk."""
        lines = [json.dumps(episode_record(e, phase, update), ensure_ascii=False) + "\n" for e in episodes]
        with open(self.path / "episodes.jsonl", "a", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def append_timing(self, record: Mapping[str, Any]) -> None:
        """Append wall times; kept apart from the episodes so that those can be compared bit by bit."""
        with open(self.path / "timing.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the files that are appended to."""
        paths = [self.path / name for name in _APPENDED]
        return {path.name: path.stat().st_size for path in paths if path.exists()}

    def truncate(self, sizes: Mapping[str, int]) -> None:
        """Drop what was appended after a checkpoint, so that resuming does not list it twice."""
        for name in _APPENDED:
            path = self.path / name
            if path.exists():
                os.truncate(path, min(sizes.get(name, 0), path.stat().st_size))

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def checkpoint_path(self, update: int) -> Path:
        """Folder of the checkpoint after ``update`` updates."""
        return self.path / "checkpoints" / f"{update:06d}"

    def begin_checkpoint(self, update: int) -> Path:
        """Return an empty folder to write a checkpoint into; ``commit_checkpoint`` puts it in place."""
        part = self.path / "checkpoints" / f".{update:06d}.part"
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
        return part

    def commit_checkpoint(self, update: int) -> Path:
        """Put a written checkpoint in place in one step, and drop all but the two newest."""
        part = self.path / "checkpoints" / f".{update:06d}.part"
        target = self.checkpoint_path(update)
        if target.exists():
            shutil.rmtree(target)
        os.replace(part, target)
        for old in self._checkpoints()[:-2]:
            shutil.rmtree(old)
        return target

    def drop_checkpoint(self, update: int) -> None:
        """Delete a checkpoint that turned out to be no good."""
        shutil.rmtree(self.checkpoint_path(update), ignore_errors=True)

    def _checkpoints(self) -> list[Path]:
        folder = self.path / "checkpoints"
        return sorted(p for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []

    def latest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, or None.

        Raises:
            CheckpointError: if its ``state.json`` cannot be read.
        """
        for path in reversed(self._checkpoints()):
            if not (path / "state.json").exists():
                raise CheckpointError(f"{path} has no state.json; delete that folder to resume from an older one.")
            return path
        return None
