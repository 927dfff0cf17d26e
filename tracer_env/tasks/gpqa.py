"""GPQA Diamond: graduate-level multiple choice (Rein et al., COLM 2024).

The authors ask that no example appears in plain text, so that none leaks into training corpora: the archive is read
in memory only, errors name rows and fields but no values, and a question's repr is its id.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import zipfile
import zlib
from pathlib import Path

from tracer_env.errors import DataFormatError
from tracer_env.tasks.sources import LoadedTask, Row, Source, check_split, load_rows
from tracer_env.types import Question

__all__ = ["GpqaDiamondTask"]

_MEMBER = "dataset/gpqa_diamond.csv"
_PASSWORD = b"deserted-untie-orchid"  # public: printed in the authors' README
_CORRECT = "Correct Answer"
_OPTIONS = (_CORRECT, "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class _UnprintedQuestion(Question):
    """A question whose text stays out of logs, tracebacks and test reports."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Question({self.question_id!r}, not printed)"


class GpqaDiamondTask(LoadedTask):
    """198 test questions with four options; the answer kind is ``choice``. Flaw C8: its one split is not for training.

    The options are shuffled by a hash of the record's id, so that every build and every machine has the same order.
    """

    def __init__(self, split: str = "test", data_dir: str | os.PathLike[str] | None = None) -> None:
        """Store the settings; the data is read at first use.

        Args:
            split: ``"test"``.
            data_dir: folder with ``gpqa/dataset.zip``, the authors' encrypted archive; None looks at
                ``TRACER_DATA_DIR``, then at the Hugging Face hub (where access must be asked for).

        Raises:
            SplitError: if there is no such split.
        """
        super().__init__("gpqa_diamond", check_split("gpqa_diamond", split, ("test",)), "choice")
        self._data_dir = data_dir

    def _load(self) -> list[Question]:
        # the hub calls the only split "train"
        source = Source("gpqa", "dataset.zip", "Idavidrein/gpqa", "gpqa_diamond", "train")
        return [_build_question(row) for row in load_rows(self.name, source, self._data_dir, _read_archive)]


def _read_archive(path: Path) -> list[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(_MEMBER, pwd=_PASSWORD).decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(content, newline="")))
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, OSError, UnicodeDecodeError, csv.Error) as error:
        # from None: a decoding error carries the text
        raise DataFormatError(f"{path}: cannot read {_MEMBER} ({type(error).__name__}).") from None
    return [Row(f"{path} {_MEMBER} row {i}", row) for i, row in enumerate(rows, start=1)]


def _build_question(row: Row) -> Question:
    record_id = row.text("Record ID")
    order = sorted(_OPTIONS, key=lambda column: hashlib.sha256(f"{record_id}/{column}".encode()).digest())
    options = "\n".join(f"{letter}) {row.text(column)}" for letter, column in zip("ABCD", order, strict=True))
    gold = "ABCD"[order.index(_CORRECT)]
    return _UnprintedQuestion(record_id, f"{row.text('Question')}\n\n{options}", gold, "choice")
