"""GSM8K: grade-school word problems with a number as answer (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import os
import re

from tracer_env.errors import DataFormatError
from tracer_env.tasks.jsonl import read_jsonl
from tracer_env.tasks.sources import LoadedTask, Row, Source, check_split, load_rows
from tracer_env.types import Question

__all__ = ["Gsm8kTask", "parse_gold"]

_SPLITS = ("train", "test")
_GOLD = re.compile(r"-?\d{1,20}", re.ASCII)


def parse_gold(row: Row) -> str:
    r"""Return the final number of a worked solution: what follows its last ``####``, without commas.

    The parser for model answers is not used: it expects prose, and what it declines would be a wrong gold (flaw C11
    of the public code, where 7 golds are misread).

    Raises:
        DataFormatError: if there is no integer.

    >>> parse_gold(Row("here", {"answer": "2 * 617 = <<2*617=1234>>1234.\n#### 1,234"}))
    '1234'
    """
    _, mark, number = row.text("answer").rpartition("####")
    gold = number.strip().replace(",", "")
    if not mark or not _GOLD.fullmatch(gold):
        raise DataFormatError(f"{row.where}: field 'answer' must end in '#### ' and an integer.")
    return gold


class Gsm8kTask(LoadedTask):
    """7,473 train and 1,319 test questions; the answer kind is ``number``."""

    def __init__(self, split: str = "train", data_dir: str | os.PathLike[str] | None = None) -> None:
        """Store the settings; the data is read at first use.

        Args:
            split: ``"train"`` or ``"test"``.
            data_dir: folder with ``gsm8k/train.jsonl`` and ``gsm8k/test.jsonl``; None looks at ``TRACER_DATA_DIR``,
                then at the Hugging Face hub.

        Raises:
            SplitError: if there is no such split.
        """
        super().__init__("gsm8k", check_split("gsm8k", split, _SPLITS), "number")
        self._data_dir = data_dir

    def _load(self) -> list[Question]:
        source = Source("gsm8k", f"{self.split}.jsonl", "openai/gsm8k", "main", self.split)
        rows = load_rows(self.name, source, self._data_dir, read_jsonl)
        return [
            Question(f"gsm8k/{self.split}/{i}", row.text("question"), parse_gold(row), self.kind)
            for i, row in enumerate(rows)
        ]
