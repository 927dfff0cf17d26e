"""MATH-500: the 500-problem test split of MATH with LaTeX answers (Lightman et al. 2023, arXiv 2305.20050)."""

from __future__ import annotations

import os

from tracer_env.tasks.jsonl import read_jsonl
from tracer_env.tasks.sources import LoadedTask, Source, check_split, load_rows
from tracer_env.types import Question

__all__ = ["Math500Task"]


class Math500Task(LoadedTask):
    """500 test questions; the answer kind is ``latex``. There is no train split: flaw C8 trains on the test split."""

    def __init__(self, split: str = "test", data_dir: str | os.PathLike[str] | None = None) -> None:
        """Store the settings; the data is read at first use.

        Args:
            split: ``"test"``.
            data_dir: folder with ``math500/test.jsonl``; None looks at ``TRACER_DATA_DIR``, then at the Hugging Face
                hub.

        Raises:
            SplitError: if there is no such split.
        """
        super().__init__("math500", check_split("math500", split, ("test",)), "latex")
        self._data_dir = data_dir

    def _load(self) -> list[Question]:
        source = Source("math500", "test.jsonl", "HuggingFaceH4/MATH-500", None, "test")
        rows = load_rows(self.name, source, self._data_dir, read_jsonl)
        return [Question(row.text("unique_id"), row.text("problem"), row.text("answer"), self.kind) for row in rows]
