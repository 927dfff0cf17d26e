"""What a task is: an indexed set of questions and the way its answers are read and compared."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tracer_env.types import Question

__all__ = ["Task"]


@runtime_checkable
class Task(Protocol):
    """Questions by index, and how to read and compare answers. Pass any such object as ``task=``.

    Attributes:
        name: short name used in logs and summaries.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        kind: answer kind; decides the wording of the prompt (``number``, ``latex``, ``choice`` or an own one).
    """

    name: str
    split: str
    kind: str

    def num_questions(self) -> int | None:
        """Return how many questions there are, or None for an endless stream. Loads the data on first use."""
        ...

    def question(self, index: int) -> Question:
        """Return question ``index``; the same index always gives the same question.

        Raises:
            IndexError: if ``index`` is outside ``range(num_questions())``.
        """
        ...

    def extract_answer(self, text: str) -> str | None:
        """Return the final answer stated in ``text``, or None when there is none or it is ambiguous."""
        ...

    def answers_match(self, prediction: str | None, gold: str) -> bool:
        """Return whether two answers are the same; None never matches."""
        ...
