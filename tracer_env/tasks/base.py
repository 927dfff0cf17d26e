"""What a task is: an indexed set of questions and the way its answers are read and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tracer_env.types import DialogueState, Question, Rules, Seat, Utterance

__all__ = ["ScriptedTask", "Task"]


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


@runtime_checkable
class ScriptedTask(Task, Protocol):
    """A task that brings every utterance itself, a recorded or a simulated team: only the controls are played.

    Given the question, what a seat would say in a state is fixed. So both controls of a decision can be played on,
    and expectations over any controllers can be computed (``tracer_env.exact``).

    Attributes:
        settings: the fields of ``Rules`` that it fixes; a contradicting argument is an error.
    """

    settings: Mapping[str, Any]

    def utterances(self, rules: Rules, state: DialogueState, seat: Seat) -> Sequence[Utterance]:
        """Return the candidates of an acting seat, at least one; the first is what SPEAK plays.

        Raises:
            RecordedPathError: if the state was not recorded.
        """
        ...

    def worlds(self) -> Sequence[tuple[float, Question]]:
        """Return the questions of the chance move that starts an episode, with their probabilities."""
        ...

    def outcomes(self, rules: Rules, state: DialogueState, seat: Seat) -> Sequence[tuple[float, Utterance]]:
        """Return what a seat that speaks may say in a state of one of ``worlds()``, with the probabilities."""
        ...
