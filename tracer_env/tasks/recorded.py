"""A recorded game as a task: the team, its rules and every text come from one file; only the controls are played."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tracer_env.answers import answers_match, check_kind, extract_answer
from tracer_env.dialogue import judged_proposal, round_role
from tracer_env.errors import RecordedPathError
from tracer_env.recordings import Recording, load_recording, recording_path
from tracer_env.types import DialogueState, Question, Role, Rules, Seat, Utterance

__all__ = ["RecordedTask", "path_of", "pool_places"]


def path_of(state: DialogueState) -> int:
    """Return the controls played so far as recordings store them: a leading 1, then one bit a turn (1 is SPEAK)."""
    path = 1
    for turn in state.turns:
        path = 2 * path + turn.spoke
    return path


def pool_places(rules: Rules) -> tuple[int, int]:
    """Return how many proposals one ballot episode may use, and how many reviews of one proposal."""
    rounds = range(rules.rounds)
    counts = [sum(round_role(rules, r) is role for r in rounds) for role in Role]
    together = rules.schedule == "simultaneous"
    return counts[0] * (rules.proposers if together else 1), counts[1] * (rules.reviewers if together else 1)


def _place(rules: Rules, round_index: int, seat: Seat) -> int:
    """Number the turns of a role: a seat that stays silent leaves its place unused."""
    before = sum(round_role(rules, r) is seat.role for r in range(round_index))
    if rules.schedule != "simultaneous":
        return before
    return before * (rules.proposers if seat.role is Role.PROPOSER else rules.reviewers) + seat.index


class RecordedTask:
    """The worlds of a recording: question ``w`` is replicate ``w % n`` of recorded question ``w // n``.

    Drawing a world uniformly is the hidden chance move that starts an episode.

    Attributes:
        path: the file.
        recording: what it holds.
        settings: the fields of ``Rules`` that the recording fixes.
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        """Read and check the file.

        Args:
            name: the name of a shipped recording, or a path.

        Raises:
            UnknownNameError: if no shipped recording has the name.
            DataNotFoundError: if the path does not exist.
            RecordingError: if the file cannot be used.
        """
        self.path: Path = recording_path(name)
        self.recording: Recording = load_recording(self.path)
        manifest = self.recording.manifest
        self.name = f"recorded:{manifest['name']}"
        self.split: str = manifest["split"]
        self.kind: str = manifest["kind"]
        check_kind(self.kind)
        self.settings: Mapping[str, Any] = dict(manifest["settings"])
        self._replicates = int(manifest["replicates"])
        self._seats = {seat: k for k, seat in enumerate(Rules(**self.settings).seats)}
        self._world_of = {
            self._id(world): world for world in range(self.recording.num_worlds)
        }  # question ids carry the replicate
        self._nodes: dict[int, dict[tuple[int, int], int]] = {}
        self._said: dict[tuple[str, int], Utterance] = {}
        # The texts are finite and come again and again; reading one takes longer than all the rest of a step.
        self._extract = lru_cache(maxsize=None)(partial(extract_answer, kind=self.kind))
        self._match = lru_cache(maxsize=None)(partial(answers_match, kind=self.kind))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as the file's path, and not as all of its texts."""
        return RecordedTask, (self.path.absolute(),)

    def _id(self, world: int) -> str:
        question, replicate = divmod(world, self._replicates)
        return f"{self.recording.questions[question].question_id}/{replicate}"

    # --- questions ---------------------------------------------------------------------------------------------

    def num_questions(self) -> int:
        """Return the number of worlds: questions times replicates."""
        return self.recording.num_worlds

    def question(self, index: int) -> Question:
        """Return the question of world ``index``; its id ends in the number of the replicate."""
        if not 0 <= index < self.recording.num_worlds:
            raise IndexError(f"{self.name} has the worlds 0 to {self.num_questions() - 1}, not {index}.")
        question = self.recording.questions[index // self._replicates]
        return Question(self._id(index), question.text, question.gold, question.kind)

    def extract_answer(self, text: str) -> str | None:
        """Return the stated answer, read by the recording's kind."""
        return self._extract(text)

    def answers_match(self, prediction: str | None, gold: str) -> bool:
        """Return whether two answers are the same, by the recording's kind."""
        return self._match(prediction, gold)

    def worlds(self) -> Sequence[tuple[float, Question]]:
        """Return all worlds, equally likely."""
        count = self.recording.num_worlds
        return [(1.0 / count, self.question(world)) for world in range(count)]

    # --- what is said ------------------------------------------------------------------------------------------

    def outcomes(self, rules: Rules, state: DialogueState, seat: Seat) -> Sequence[tuple[float, Utterance]]:
        """Return the one utterance that is played on."""
        return ((1.0, self.utterances(rules, state, seat)[0]),)

    def utterances(self, rules: Rules, state: DialogueState, seat: Seat) -> Sequence[Utterance]:
        """Return the recorded candidates of a seat.

        Raises:
            RecordedPathError: if the question or the state was not recorded.
        """
        if rules.decide == "ballot":
            return (self._from_pool(rules, state, seat),)
        node = self.node(state, seat)
        candidates = int(self.recording.manifest["candidates"])
        return [self._utterance("tree", node * candidates + k) for k in range(candidates)]

    def node(self, state: DialogueState, seat: Seat) -> int:
        """Return the row of the node in which ``seat`` speaks.

        Raises:
            RecordedPathError: if the question or the state was not recorded.
        """
        world = self._world(state, seat)
        nodes = self._nodes.get(world)
        if nodes is None:
            first, last = self.recording.world_nodes[world : world + 2]
            nodes = self._nodes[world] = {
                (int(self.recording.node_path[n]), int(self.recording.node_seat[n])): n
                for n in range(int(first), int(last))
            }
        node = nodes.get((path_of(state), self._seats.get(seat, -1)))
        if node is None:
            raise self._outside(state, seat)
        return node

    def _world(self, state: DialogueState, seat: Seat) -> int:
        world = self._world_of.get(state.question.question_id)
        if world is None:
            raise self._outside(state, seat)
        return world

    def _from_pool(self, rules: Rules, state: DialogueState, seat: Seat) -> Utterance:
        """Take the proposal of this place from the world's part of the pool, or the next review of the newest one."""
        manifest = self.recording.manifest
        question, replicate = divmod(self._world(state, seat), self._replicates)
        proposals, _ = pool_places(rules)
        first = question * int(manifest["proposals"]) + replicate * proposals
        if seat.role is Role.PROPOSER:
            return self._utterance("proposals", first + _place(rules, state.round, seat))
        judged = judged_proposal(rules, state)
        if judged is None:
            raise self._outside(state, seat)  # a review before any proposal
        row = first + _place(rules, state.turns[judged.turn].round, judged.seat)
        # the review rounds since that proposal
        number = _place(rules, state.round, seat) - _place(rules, state.turns[judged.turn].round, Seat(seat.role, 0))
        return self._utterance("reviews", row * int(manifest["reviews"]) + number)

    def _utterance(self, table: str, row: int) -> Utterance:
        said = self._said.get((table, row))
        if said is None:
            said = self._said[table, row] = getattr(self.recording, table).utterance(row)
        return said

    def _outside(self, state: DialogueState, seat: Seat) -> RecordedPathError:
        played = ", ".join(f"{turn.seat.name} {turn.control.name}" for turn in state.turns) or "nothing"
        return RecordedPathError(
            f"{self.path.name} has no utterance of {seat.name} for question {state.question.question_id!r} after: "
            f"{played}. It is outside the recorded game; ask for states that were reached by playing it."
        )
