"""What a seat reads at its turn: the only place with prompt wording.

The question comes first, then the transcript in order, then the task of the seat: what changes least stands
first, so that engines with prefix caching reuse work across rounds and seats. Every part opens with a line that
starts with ``===``; a line of a question or an utterance that starts so is escaped, so that no text can pass
for another part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tracer_env.answers import parse_verdict
from tracer_env.types import DialogueState, Role, Seat

__all__ = ["Prompt", "Section", "build_prompt"]

_MARK = "==="
_FORGED = re.compile(rf"(\s*){_MARK}")

_FORMAT = {
    "number": 'End with "#### " and the number.',
    "latex": "End with the final answer in \\boxed{}.",
    "choice": 'End with "Answer: " and the letter.',
}
_OTHER_FORMAT = 'End with "Answer: " and the answer.'
_PROPOSE = "Solve the question step by step."
_REVIEW = "First line: RIGHT or WRONG. If WRONG, then say what fails."


class Section(NamedTuple):
    """One part of a prompt.

    Attributes:
        header: the line after the mark, for example ``Review 1 by reviewer_0``.
        body: the escaped text.
        kind: ``question``, ``solution``, ``standing`` (the solution whose answer stands), ``review`` or ``task``.
    """

    header: str
    body: str
    kind: str

    def render(self) -> str:
        """Return the section as text."""
        return f"{_MARK} {self.header}\n{self.body}\n"


class Prompt(str):
    """A prompt's text, with the sections it was made of so that it can be shortened to fit a context.

    Attributes:
        num_cut: how many sections were cut or shortened.
    """

    num_cut: int
    _rendered: Sequence[str]
    _kinds: Sequence[str]

    def __new__(cls, sections: Sequence[Section], num_cut: int = 0) -> Prompt:
        """Join sections."""
        return cls._join([section.render() for section in sections], [section.kind for section in sections], num_cut)

    @classmethod
    def _join(cls, rendered: Sequence[str], kinds: Sequence[str], num_cut: int = 0) -> Prompt:
        self = super().__new__(cls, "".join(rendered))
        self._rendered = rendered
        self._kinds = kinds
        self.num_cut = num_cut
        return self

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections in the order of the text; made on demand, as most prompts are read as text only."""
        return tuple(map(_read_section, self._rendered, self._kinds))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the sections through ``copy`` and multiprocessing."""
        return (Prompt, (self.sections, self.num_cut))

    def shorten(self, fits: Callable[[str], bool]) -> Prompt | None:
        """Cut until the text fits, by this rule and in this order.

        1. Critiques, oldest first: of a review only its first line (the verdict) is kept.
        2. Solutions that do not stand and what is left of reviews, oldest first, whole.
        3. The standing solution (its answer is still named in a reviewer's task).

        Question and task are never cut.

        Args:
            fits: tells whether a text fits.

        Returns:
            The longest version that fits (``self`` if nothing must go), or None if question and task alone
            do not fit.
        """
        prompt = self
        while not fits(prompt):
            shorter = prompt._cut_once()
            if shorter is None:
                return None
            prompt = shorter
        return prompt

    def _cut_once(self) -> Prompt | None:
        sections = list(self.sections)
        for i, section in enumerate(sections):
            verdict = _verdict_line(section.body)
            if section.kind == "review" and section.body != verdict:
                sections[i] = section._replace(body=verdict)
                return Prompt(sections, self.num_cut + 1)
        for kinds in (("solution", "review"), ("standing",)):
            for i, section in enumerate(sections):
                if section.kind in kinds:
                    return Prompt(sections[:i] + sections[i + 1 :], self.num_cut + 1)
        return None


def _read_section(rendered: str, kind: str) -> Section:
    """Undo ``Section.render``: a header has no line break."""
    header, _, body = rendered.removeprefix(f"{_MARK} ").partition("\n")
    return Section(header, body[:-1], kind)


def _verdict_line(review: str) -> str:
    """Reduce a review to its verdict; an unparsable one has none."""
    verdict = parse_verdict(review)
    return "" if verdict is None else verdict.value


def _escape(text: str) -> str:
    """Put a backslash before the mark at the start of each line, whichever of Unicode's line breaks begins it."""
    text = text.strip("\n")
    if _MARK not in text:
        return text
    return "".join(_escape_line(line) for line in text.splitlines(keepends=True))


def _escape_line(line: str) -> str:
    forged = _FORGED.match(line)
    return line if forged is None else f"{forged[1]}\\{line[forged.end(1) :]}"


def build_prompt(state: DialogueState, seat: Seat, kind: str) -> Prompt:
    """Write what ``seat`` reads in ``state``.

    Args:
        state: the dialogue as far as it is visible to the seat.
        seat: who reads.
        kind: the task's answer kind; decides how the final answer is asked for.

    Returns:
        The prompt; it never holds the gold answer, rewards, or anything of the round in progress.
    """
    parts = [f"{_MARK} Question\n{_escape(state.question.text)}\n"]
    kinds = ["question"]
    standing = None if state.standing is None else state.standing.turn
    solutions = reviews = 0  # each part as Section.render would write it, without making the section
    for turn in state.turns:
        if not turn.control:  # SKIP
            continue
        author = turn.seat
        if author.role is Role.REVIEWER:
            reviews += 1
            parts.append(f"{_MARK} Review {reviews} by {author.name}\n{_escape(turn.utterance)}\n")
            kinds.append("review")
        else:
            solutions += 1
            parts.append(f"{_MARK} Solution {solutions} by {author.name}\n{_escape(turn.utterance)}\n")
            kinds.append("standing" if turn.index == standing else "solution")
    parts.append(f"{_MARK} Task for {seat.name}\n{_task_text(state, seat, kind)}\n")
    kinds.append("task")
    return Prompt._join(parts, kinds)


def _task_text(state: DialogueState, seat: Seat, kind: str) -> str:
    if seat.role is Role.REVIEWER:
        answer = "(none)" if state.answer is None else state.answer
        named = _escape(answer).replace("\n", " ")
        return f"Is the standing answer {named} right? {_REVIEW}"
    return f"{_PROPOSE} {_FORMAT.get(kind, _OTHER_FORMAT)}"
