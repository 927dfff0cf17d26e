"""Where a task's rows come from: a local folder or the Hugging Face hub. Knows no task's fields.

An explicit ``data_dir`` is final; without one, ``TRACER_DATA_DIR`` is looked at, then the hub. When no source has
the rows there is one error that names the three ways out; nothing is ever put in place of missing data (flaws C8, C9
of the public code).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer_env.answers import answers_match, check_kind, extract_answer
from tracer_env.errors import DataFormatError, DataNotFoundError, MissingExtraError, SplitError, nearest
from tracer_env.types import Question

__all__ = ["DATA_DIR_VARIABLE", "LoadedTask", "Row", "Source", "check_split", "load_rows"]

DATA_DIR_VARIABLE = "TRACER_DATA_DIR"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows of one split are.

    Attributes:
        folder: subfolder of the data folder.
        filename: file in that subfolder.
        hub_repo: data set on the Hugging Face hub with the same fields.
        hub_config: configuration of that data set; None for its only one.
        hub_split: the hub's name for the split.
    """

    folder: str
    filename: str
    hub_repo: str
    hub_config: str | None
    hub_split: str


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """One row of a data set. Its repr tells where it is and not what it holds.

    Attributes:
        where: file and line, or data set and row, for error messages.
        fields: the row's values by name.
    """

    where: str
    fields: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Row({self.where!r})"

    def text(self, field: str) -> str:
        """Return a field that must be a string with more than white space in it, stripped.

        Raises:
            DataFormatError: naming the place and the field, never the value.
        """
        value = self.fields.get(field)
        if value is None:
            raise DataFormatError(f"{self.where}: field {field!r} is missing.{nearest(field, self.fields)}")
        if not isinstance(value, str) or not value.strip():
            raise DataFormatError(f"{self.where}: field {field!r} must be a non-empty string.")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise DataFormatError(
                f"{self.where}: field {field!r} holds half of a surrogate pair, which is no character; "
                "write the character itself or both halves."
            )
        return value.strip()


def check_split(task: str, split: str, splits: Sequence[str]) -> str:
    """Return ``split`` if the task has it.

    Raises:
        SplitError: naming the splits that exist.
    """
    if split not in splits:
        plural = "splits" if len(splits) > 1 else "split"
        raise SplitError(f"task {task!r} has the {plural} {', '.join(splits)}, not {split!r}.")
    return split


def load_rows(
    task: str, source: Source, data_dir: str | os.PathLike[str] | None, read_file: Callable[[Path], list[Row]]
) -> list[Row]:
    """Read the rows of a split from the first source that has them.

    Args:
        task: the task's name, for the error message.
        source: where to look.
        data_dir: a folder that holds ``source.folder``, or that subfolder itself; when given, nothing else is tried.
        read_file: reads a local file.

    Raises:
        DataNotFoundError: if no source has the rows; names the three ways out.
        DataFormatError: if a file was found and is malformed.
    """
    tried: list[str] = []
    cause: Exception | None = None
    variable = os.environ.get(DATA_DIR_VARIABLE) or None
    label, folder = (DATA_DIR_VARIABLE, variable) if data_dir is None else ("data_dir", data_dir)
    if folder is not None:
        path = _find_file(Path(folder), source)
        if path is not None:
            return read_file(path)
        tried.append(f"{label}={os.fspath(folder)!r} holds no {source.folder}/{source.filename}")
    if data_dir is None:
        try:
            return _load_hub_rows(source)
        except Exception as error:  # the hub's client raises errors of several network libraries
            cause = error
            tried.append(f"the hub failed with {type(error).__name__}")
    raise DataNotFoundError(_not_found(task, source, tried)) from cause


def _find_file(folder: Path, source: Source) -> Path | None:
    candidates = (folder / source.folder / source.filename, folder / source.filename)
    return next((path for path in candidates if path.is_file()), None)


def _load_hub_rows(source: Source) -> list[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("datasets", "data", f"loading {source.hub_repo} from the Hugging Face hub") from error
    rows = load_dataset(source.hub_repo, source.hub_config, split=source.hub_split)
    return [Row(f"{source.hub_repo} ({source.hub_split}) row {i}", dict(row)) for i, row in enumerate(rows)]


def _not_found(task: str, source: Source, tried: Sequence[str]) -> str:
    return (
        f"no data for task {task!r}: {'; '.join(tried)}. Three ways out: (1) pass data_dir= a folder that holds "
        f"{source.folder}/{source.filename}; (2) set the environment variable {DATA_DIR_VARIABLE} to such a folder; "
        f"(3) leave both unset to load {source.hub_repo} from the Hugging Face hub, which needs the network and "
        f"pip install 'tracer-env[data]'."
    )


class LoadedTask(ABC):
    """A task whose questions are all read at first use, once per object.

    Attributes:
        name: short name used in logs and summaries.
        split: which part of the data.
        kind: answer kind, one of ``ANSWER_KINDS``.
    """

    def __init__(self, name: str, split: str, kind: str) -> None:
        """Store the three attributes; nothing is read yet."""
        self.name = name
        self.split = split
        self.kind = kind
        self._questions: tuple[Question, ...] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, split={self.split!r}, kind={self.kind!r})"

    @abstractmethod
    def _load(self) -> list[Question]:
        """Read all questions.

        Raises:
            DataNotFoundError: if no source has the data.
            DataFormatError: if the data is malformed.
        """

    def num_questions(self) -> int:
        """Return how many questions there are; reads the data on first use."""
        return len(self._loaded())

    def question(self, index: int) -> Question:
        """Return question ``index``; reads the data on first use.

        Raises:
            IndexError: if ``index`` is outside ``range(num_questions())``.
        """
        questions = self._loaded()
        if not 0 <= index < len(questions):
            raise IndexError(f"task {self.name!r} has the questions 0 to {len(questions) - 1}, not {index}.")
        return questions[index]

    def extract_answer(self, text: str) -> str | None:
        """Return the final answer stated in ``text``, or None when there is none or it is ambiguous."""
        return extract_answer(text, self.kind)

    def answers_match(self, prediction: str | None, gold: str) -> bool:
        """Return whether two answers are the same; None never matches."""
        return answers_match(prediction, gold, self.kind)

    def _loaded(self) -> tuple[Question, ...]:
        if self._questions is None:
            questions = tuple(self._load())
            check_kind(self.kind)  # after loading: a file may bring its own kind
            self._questions = questions
        return self._questions
