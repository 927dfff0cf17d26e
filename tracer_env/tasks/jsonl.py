"""JSONL files: one JSON object per line. Holds the reader and the task for a user's own file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tracer_env.answers import ANSWER_KINDS, answers_match
from tracer_env.errors import DataFormatError, DataNotFoundError, UnknownNameError
from tracer_env.tasks.sources import LoadedTask, Row
from tracer_env.types import Question

__all__ = ["JsonlTask", "read_jsonl"]


def read_jsonl(path: Path) -> list[Row]:
    """Read every line that is not blank. Numbers are kept as they are written, as strings.

    Raises:
        DataNotFoundError: if the file cannot be read.
        DataFormatError: if a line is no JSON object in UTF-8, naming file and line; or if there is no line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataNotFoundError(f"{path} cannot be read: {error.strerror}. Pass the path of a JSONL file.") from error
    rows = [_parse_line(f"{path} line {i}", line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataFormatError(f"{path} holds no rows.")
    return rows


def _parse_line(where: str, line: bytes) -> Row:
    try:
        # as strings, numbers are exact and of any length
        fields = json.loads(line.decode("utf-8-sig"), parse_int=str, parse_float=str)
    except UnicodeDecodeError:
        raise DataFormatError(f"{where}: is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise DataFormatError(f"{where}: is not JSON ({error.msg} at column {error.colno}).") from None
    except RecursionError:
        raise DataFormatError(f"{where}: is nested too deeply.") from None
    if not isinstance(fields, dict):
        raise DataFormatError(f"{where}: must be a JSON object with named fields.")
    return Row(where, fields)


class JsonlTask(LoadedTask):
    """Questions from a JSONL file with one question and its final answer per line.

    Attributes:
        path: the file.
        name: the file's name without its ending.
        split: a label; the file holds a single split.
        kind: the answer kind. The rows may carry it in a field ``kind``, all the same; it then replaces the
            argument when the file is read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        split: str = "train",
        kind: str = "number",
        question_field: str = "question",
        answer_field: str = "answer",
    ) -> None:
        """Store the settings; the file is read at first use.

        Args:
            path: the file.
            split: label for logs and summaries.
            kind: one of ``ANSWER_KINDS``.
            question_field: name of the field with the question's text.
            answer_field: name of the field with the final answer alone (a string or a number).

        Raises:
            UnknownNameError: if ``kind`` is unknown.
        """
        if kind not in ANSWER_KINDS:
            raise UnknownNameError("answer kind", kind, ANSWER_KINDS)
        self.path = Path(path)
        super().__init__(self.path.stem, split, kind)
        self._question_field = question_field
        self._answer_field = answer_field

    def _load(self) -> list[Question]:
        rows = read_jsonl(self.path)
        if "kind" in rows[0].fields:
            self.kind = rows[0].text("kind")
        return [self._question(row, i) for i, row in enumerate(rows)]

    def _question(self, row: Row, index: int) -> Question:
        kind = row.text("kind") if "kind" in row.fields else self.kind
        if kind not in ANSWER_KINDS:
            raise DataFormatError(f"{row.where}: field 'kind' must be one of {', '.join(ANSWER_KINDS)}.")
        if kind != self.kind:
            raise DataFormatError(f"{row.where}: field 'kind' must be {self.kind!r} in all rows of the file.")
        gold = row.text(self._answer_field)
        if not answers_match(gold, gold, kind):
            raise DataFormatError(
                f"{row.where}: field {self._answer_field!r} must be a final answer of kind {kind!r} and nothing else. "
                f"For answers of another kind give every row a field 'kind': one of {', '.join(ANSWER_KINDS)}."
            )
        return Question(f"{self.name}/{index}", row.text(self._question_field), gold, kind)
