"""Recording a game: the complete control tree of every question, or its ballot pool, written by a real generator.

Owns how a recording is made. The file format is in ``tracer_env/recordings``; how it is played is in
``tracer_env/tasks/recorded.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tracer_agents.assembly import SHIPPED_MODEL, evaluation_questions, load_generator, policy_of, seed_of
from tracer_agents.config import TrainConfig
from tracer_agents.evaluate import config_of_run
from tracer_agents.interfaces import Generator, Request
from tracer_agents.records import read_json_object, software, write_json
from tracer_env import Action, Control, DialogueState, Game, Question, Role, Rules, Seat, Utterance, Verdict
from tracer_env import prompts as wording
from tracer_env.dialogue import play_turn, round_role
from tracer_env.errors import ConfigError, RecordingError
from tracer_env.recordings import (
    SETTINGS,
    Recording,
    Utterances,
    hash_of_prompt,
    load_recording,
    read_manifest,
    save_recording,
)
from tracer_env.registry import names_a_file
from tracer_env.tasks.recorded import path_of, pool_places

__all__ = [
    "GeneratorWriter",
    "RecordPlan",
    "Writer",
    "check_recordable",
    "describe_model",
    "hash_of_files",
    "leaves_of",
    "merge_recordings",
    "record",
    "record_chunk",
    "record_with_model",
]

Asked = tuple[DialogueState, Seat]
Writer = Callable[[Sequence[Asked], float], list[Utterance]]
"""Writes one utterance for each (state, seat) at a temperature (0 is greedy)."""

_MAX_LEAVES = 4096
"""A control tree with more leaves for a question is refused: it grows as 2 to the number of choices."""

_MAX_TURNS, _MAX_SEATS = 31, 256
"""What the format's integers hold: a path of 32 bits that begins with a 1, and a seat of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class RecordPlan:
    """How much is recorded of each question.

    Attributes:
        replicates: n whole trees, at least 1. A ballot's are as many as its pool holds, and this is ignored.
        candidates: K candidates at each node of a tree, at least 1.
        proposals: M independent first proposals, at least 1: the pool of a ballot, baselines beside a tree.
        reviews: V reviews of each pool proposal; a ballot only.
        chunk: questions recorded together, at least 1: what an interruption can lose.
        seed: of everything.
        temperature: of every utterance but the greedy one, above 0.
    """

    replicates: int = 2
    candidates: int = 4
    proposals: int = 16
    reviews: int = 4
    chunk: int = 32
    seed: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("replicates", "candidates", "proposals", "reviews", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.temperature > 0:
            raise ConfigError(f"the temperature of a recording must be above 0, not {self.temperature!r}.")


class GeneratorWriter:
    """A generator that writes for seats of a game."""

    def __init__(self, game: Game, generator: Generator, policies: Mapping[Seat, str]) -> None:
        """Take a game, its generator and the policy of every seat."""
        self._game, self._generator, self._policies = game, generator, policies

    def __call__(self, asked: Sequence[Asked], temperature: float) -> list[Utterance]:
        """Write one utterance for each."""
        requests = [
            Request(
                prompt=self._game.prompt(state, seat),
                policy=self._policies[seat],
                role=seat.role,
                temperature=temperature,
            )
            for state, seat in asked
        ]
        return [candidate.utterance for candidate in self._generator.generate(requests)]

    def reseed(self, seed: int) -> None:
        """Restart the sampling randomness."""
        self._generator.reseed(seed)


# --- one chunk of questions -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Rows:
    """Judged utterances on their way into a table."""

    utterances: list[Utterance]
    answers: list[str | None]
    verdicts: list[bool | None]
    correct: list[bool]

    @classmethod
    def empty(cls) -> _Rows:
        return cls([], [], [], [])

    def judge(self, game: Game, asked: Sequence[Asked], said: Sequence[Utterance]) -> None:
        for (state, seat), utterance in zip(asked, said, strict=True):
            turn = play_turn(game.rules, game.task, state, seat, Action(Control.SPEAK, utterance))
            self.utterances.append(turn.utterance)
            self.answers.append(turn.answer)
            self.verdicts.append(None if turn.verdict is None else turn.verdict is Verdict.RIGHT)
            self.correct.append(bool(turn.correct))

    def table(self) -> Utterances:
        return Utterances.of(self.utterances, self.answers, self.verdicts, self.correct)


def record_chunk(game: Game, write: Writer, questions: Sequence[Question], plan: RecordPlan) -> Recording:
    """Record some questions; the manifest is left empty but for the counts.

    Args:
        game: the live game; its stopping rules must be off, so that the tree is complete.
        write: writes the texts.
        questions: what is recorded.
        plan: how much of each.

    Returns:
        A recording of these questions.
    """
    ballot = game.rules.decide == "ballot"
    proposer = game.rules.seats[0]
    tree, nodes = _Rows.empty(), _Nodes([], [], [], [])
    if not ballot:
        worlds = [game.start(question) for question in questions for _ in range(plan.replicates)]
        _record_trees(game, write, worlds, plan, tree, nodes)
    firsts = [(game.start(question), proposer) for question in questions for _ in range(plan.proposals)]
    proposals, reviews, greedy = _Rows.empty(), _Rows.empty(), _Rows.empty()
    proposals.judge(game, firsts, write(firsts, plan.temperature))
    starts = [(game.start(question), proposer) for question in questions]
    greedy.judge(game, starts, write(starts, 0.0))
    if ballot and game.rules.reviewers:
        asked = [ask for ask in _review_states(game, firsts, proposals.utterances) for _ in range(plan.reviews)]
        reviews.judge(game, asked, write(asked, plan.temperature))
    order = np.lexsort((nodes.seat, nodes.path, nodes.world)) if nodes.world else np.zeros(0, dtype=np.int64)
    rows = (order[:, None] * plan.candidates + np.arange(plan.candidates)).ravel()
    replicates = _replicates(game, plan)
    counts = np.bincount(nodes.world, minlength=len(questions) * replicates) if nodes.world else np.zeros(
        len(questions) * replicates, dtype=np.int64
    )  # fmt: skip
    sorted_tree = _Rows(*([column[row] for row in rows] for column in _columns(tree)))
    return Recording(
        manifest={
            "replicates": replicates,
            "candidates": plan.candidates,
            "proposals": plan.proposals,
            "reviews": plan.reviews if ballot and game.rules.reviewers else 0,
        },
        questions=tuple(questions),
        world_nodes=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        node_path=np.array(nodes.path, dtype=np.uint32)[order],
        node_seat=np.array(nodes.seat, dtype=np.uint8)[order],
        prompt_hash=np.array(nodes.prompt, dtype=np.uint64)[order],
        tree=sorted_tree.table(),
        proposals=proposals.table(),
        reviews=reviews.table(),
        greedy=greedy.table(),
    )


def _columns(rows: _Rows) -> tuple[list[Any], ...]:
    return rows.utterances, rows.answers, rows.verdicts, rows.correct


@dataclass(slots=True)
class _Nodes:
    world: list[int]
    path: list[int]
    seat: list[int]
    prompt: list[int]


def _record_trees(
    game: Game, write: Writer, worlds: Sequence[DialogueState], plan: RecordPlan, rows: _Rows, nodes: _Nodes
) -> None:
    """Play every control of every world in lockstep: one call of the writer serves a whole round of all trees."""
    frontier = list(enumerate(worlds))
    while frontier:
        asked = [(world, state, seat) for world, state in frontier for seat in game.acting(state)]
        repeated = [(state, seat) for _, state, seat in asked for _ in range(plan.candidates)]
        said = write(repeated, plan.temperature)
        rows.judge(game, repeated, said)
        played: dict[tuple[int, int, Seat], Utterance] = {}
        for position, (world, state, seat) in enumerate(asked):
            path = path_of(state)
            nodes.world.append(world)
            nodes.path.append(path)
            nodes.seat.append(game.rules.seats.index(seat))
            nodes.prompt.append(hash_of_prompt(game.prompt(state, seat)))
            played[world, path, seat] = said[position * plan.candidates]
        frontier = [
            (world, after)
            for world, state in frontier
            for after in _continuations(game, state, {s: played[world, path_of(state), s] for s in game.acting(state)})
            if not after.over
        ]


def _continuations(game: Game, state: DialogueState, said: Mapping[Seat, Utterance]) -> Iterator[DialogueState]:
    """Play every combination of controls that the acting seats may choose."""
    choices = [
        [Action(Control.SPEAK, utterance)] + ([Action(Control.SKIP)] if game.mask(state, seat)[0] else [])
        for seat, utterance in said.items()
    ]
    for actions in product(*choices):
        yield game.advance(state, dict(zip(said, actions, strict=True)))


def _review_states(game: Game, firsts: Sequence[Asked], said: Sequence[Utterance]) -> list[Asked]:
    """Put each pool proposal before the first reviewer, as the newest of a ballot."""
    reviewer = Seat(Role.REVIEWER, 0)
    asked = []
    for (state, seat), utterance in zip(firsts, said, strict=True):
        turn = play_turn(game.rules, game.task, state, seat, Action(Control.SPEAK, utterance))
        asked.append((state._replace(turns=(turn,), round=1), reviewer))
    return asked


def _replicates(game: Game, plan: RecordPlan) -> int:
    return plan.replicates if game.rules.decide == "last" else plan.proposals // pool_places(game.rules)[0]


# --- a whole recording ----------------------------------------------------------------------------------------------


def merge_recordings(parts: Sequence[Recording], manifest: Mapping[str, Any]) -> Recording:
    """Put recordings of the same game one behind the other under a new manifest."""
    offsets = np.cumsum([0, *(part.world_nodes[-1] for part in parts)])
    worlds = [part.world_nodes[1:] + offset for part, offset in zip(parts, offsets, strict=False)]
    tables = {n: Utterances.join([getattr(p, n) for p in parts]) for n in ("tree", "proposals", "reviews", "greedy")}
    return Recording(
        manifest=manifest,
        questions=tuple(question for part in parts for question in part.questions),
        world_nodes=np.concatenate([[0], *worlds]).astype(np.int64),
        node_path=np.concatenate([part.node_path for part in parts]),
        node_seat=np.concatenate([part.node_seat for part in parts]),
        prompt_hash=np.concatenate([part.prompt_hash for part in parts]),
        **tables,
    )


def record(
    game: Game,
    write: Writer,
    questions: Sequence[Question],
    out: Path,
    *,
    plan: RecordPlan,
    model: Mapping[str, Any],
    on_chunk: Callable[[int, int], None] | None = None,
) -> Path:
    """Record questions into one file. Called again after an interruption, it goes on where it was.

    Every chunk is one file in ``<out>.parts``, written atomically, and a ``GeneratorWriter`` is seeded by (seed,
    chunk), so that neither a repeated nor a lost question is possible and the result does not depend on interruptions.

    Args:
        game: the live game.
        write: writes the texts; a ``GeneratorWriter`` is reseeded before each chunk.
        questions: what is recorded.
        out: the file to make, ending in ``.npz``.
        plan: how much of each question.
        model: what wrote the texts, for the manifest: at least ``name``.
        on_chunk: called with (questions done, questions in all) at the start and after each chunk.

    Returns:
        ``out``.

    Raises:
        ConfigError: if ``out`` or its parts belong to a recording with other settings, the tree is too large, or
            there is no question.
    """
    check_recordable(game, plan)
    if not questions:
        raise ConfigError("a recording needs at least one question.")
    if len({question.question_id for question in questions}) < len(questions):
        raise ConfigError("a recording holds every question once, and some were given twice.")
    manifest = _manifest(game, questions, out, plan, model)
    folder = out.with_name(out.name + ".parts")
    if _finished(out, manifest):
        if not (folder / "manifest.json").is_file() or not _other_parts(folder, manifest):
            shutil.rmtree(folder, ignore_errors=True)  # stopped before it was tidied up
        return out
    _open_parts(folder, manifest)
    chunks = [questions[k : k + plan.chunk] for k in range(0, len(questions), plan.chunk)]
    parts, done = [], 0
    for number, chunk in enumerate(chunks):
        path = folder / f"{number:06d}.npz"
        part = _read_part(path, manifest)
        if on_chunk is not None:
            on_chunk(done, len(questions))
        if part is None:
            if isinstance(write, GeneratorWriter):
                write.reseed(seed_of(plan.seed, "record", number))
            part = record_chunk(game, write, chunk, plan)
            save_recording(path, replace(part, manifest={**manifest, **part.manifest}))
        parts.append(part)
        done += len(chunk)
    if on_chunk is not None:
        on_chunk(done, len(questions))
    whole = folder / "whole.npz"  # what is left of an interrupted write goes with the folder
    save_recording(whole, merge_recordings(parts, {**manifest, **_counts(parts[0])}))
    whole.replace(out)
    shutil.rmtree(folder)
    return out


def _counts(part: Recording) -> dict[str, Any]:
    return {key: part.manifest[key] for key in ("replicates", "candidates", "proposals", "reviews")}


def check_recordable(game: Game, plan: RecordPlan) -> None:
    """Check that a game can be recorded.

    Raises:
        ConfigError: naming what stands in the way.
    """
    rules = game.rules
    if game.scripted:
        raise ConfigError(f"{game.task.name!r} is a recorded or simulated game already.")
    if not isinstance(rules.schedule, str):
        raise ConfigError("a recording names its schedule; a callable cannot be recorded.")
    if any(x is not None for x in (rules.stop_after_skips, rules.stop_at_votes, rules.token_budget)):
        raise ConfigError("record without stopping rules: they can be set when the recording is played.")
    if rules.decide == "ballot":
        proposals, reviews = pool_places(rules)
        if plan.proposals < proposals or plan.reviews < reviews:
            raise ConfigError(
                f"a ballot of {rules.rounds} rounds can use {proposals} proposals and {reviews} reviews of each; the "
                f"pool has {plan.proposals} and {plan.reviews}. Raise them or lower the rounds."
            )
        return
    if (leaves := leaves_of(rules)) > _MAX_LEAVES:
        raise ConfigError(
            f"the control tree of this team has up to {leaves:,} leaves for each question (2 to the number of "
            f"choices); at most {_MAX_LEAVES:,} are recorded. Lower rounds or seats."
        )
    turns = [_turns_of_round(rules, r) for r in range(rules.rounds)]
    if sum(turns[:-1]) > _MAX_TURNS or len(rules.seats) > _MAX_SEATS:
        raise ConfigError(
            f"a recording holds up to {_MAX_SEATS} seats and {_MAX_TURNS} turns before the last round; this team has "
            f"{len(rules.seats)} and {sum(turns[:-1])}. Lower rounds or seats."
        )


def leaves_of(rules: Rules) -> int:
    """Return the most leaves that a question's control tree can have: 2 to the number of choices."""
    # in the first round no answer stands and everybody has to speak
    return 1 << sum(_turns_of_round(rules, r) for r in range(1, rules.rounds))


def _turns_of_round(rules: Rules, round_index: int) -> int:
    if rules.schedule != "simultaneous":
        return 1
    return rules.proposers if round_role(rules, round_index) is Role.PROPOSER else rules.reviewers


def _manifest(
    game: Game, questions: Sequence[Question], out: Path, plan: RecordPlan, model: Mapping[str, Any]
) -> dict[str, Any]:
    data = json.dumps([[q.question_id, q.text, q.gold] for q in questions])
    return {
        "name": out.stem,
        "task": game.task.name,
        "split": game.task.split,
        "kind": game.task.kind,
        "settings": {name: getattr(game.rules, name) for name in SETTINGS},
        "plan": {name: getattr(plan, name) for name in plan.__dataclass_fields__},
        "seed": plan.seed,
        "temperature": plan.temperature,
        "data": sha256(data.encode()).hexdigest(),
        "prompts": sha256(Path(wording.__file__).read_bytes()).hexdigest(),
        "model": dict(model),
        "code": software(),
    }


_SAME = {
    "task": "--task",
    "split": "--split",
    "kind": "--task",
    "settings": "--proposers, --reviewers, --rounds, --schedule and --decide",
    "plan": "--replicates, --candidates, --proposals, --reviews, --chunk, --seed and --temperature",
    "data": "the questions: --questions, --data-dir, or the data itself",
    "prompts": "tracer_env/prompts.py",
    "model": "--model, --run and --max-new-tokens",
}
"""What a recording that goes on must have in common with its beginning, and the options that decide it."""


def _differs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    def written(value: Any) -> str:  # files may hold the keys in another order
        return json.dumps(value, sort_keys=True)

    return next((key for key in _SAME if written(ours[key]) != written(theirs.get(key))), None)


def _finished(out: Path, manifest: Mapping[str, Any]) -> bool:
    if not out.exists():
        return False
    try:
        difference = _differs(manifest, read_manifest(out))
    except RecordingError as error:
        raise ConfigError(f"{out} is there already. Name another file with --out, or remove it. ({error})") from error
    if difference is not None:
        raise ConfigError(
            f"{out} is there already, with another {difference!r} ({_SAME[difference]}). Name another file with --out, "
            "or remove it."
        )
    return True


def _open_parts(folder: Path, manifest: Mapping[str, Any]) -> None:
    if (folder / "manifest.json").is_file():
        difference = _other_parts(folder, manifest)
        if difference is not None:
            raise ConfigError(
                f"{folder} belongs to a recording with another {difference!r} ({_SAME[difference]}). Go on with its "
                "options, name another file with --out, or remove the folder."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", manifest)


def _other_parts(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Return in what the recording that parts belong to differs from ours."""
    return _differs(manifest, read_json_object(folder / "manifest.json", "remove the folder", ConfigError))


def _read_part(path: Path, manifest: Mapping[str, Any]) -> Recording | None:
    """Return a chunk that is there, whole and of this recording; another one is made again."""
    if not path.is_file():
        return None
    try:
        part = load_recording(path)
    except RecordingError:
        return None
    return part if _differs(manifest, part.manifest) is None else None


_MODEL_FILES = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer*", "vocab*", "merges.txt",
    "special_tokens_map.json", "*.jinja", "*.safetensors",
)  # fmt: skip


def hash_of_files(folder: Path, patterns: Sequence[str] = _MODEL_FILES) -> str:
    """Return the SHA-256 of a model folder: names and bytes of the files that decide what it writes."""
    digest = sha256()
    paths = sorted({path for pattern in patterns for path in folder.rglob(pattern)})
    for path in paths:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def describe_model(config: TrainConfig, adapters: Path | None) -> dict[str, Any]:
    """Return what the manifest says of a model with the adapters in a folder: names and hashes."""
    folder = SHIPPED_MODEL if config.model is None else Path(config.model)
    wrote = {
        "name": "shipped" if config.model is None else config.model,
        "max_new_tokens": config.max_new_tokens,
        "sha256": hash_of_files(folder) if folder.is_dir() else None,  # a hub model has no folder of ours
    }
    return wrote if adapters is None else wrote | {"adapters_sha256": hash_of_files(adapters)}


def record_with_model(
    task: str,
    out: Path,
    *,
    plan: RecordPlan,
    num_questions: int,
    split: str | None = None,
    data_dir: str | None = None,
    run: str | None = None,
    model: str | None = None,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    before_loading: Callable[[], None] = lambda: None,
    on_chunk: Callable[[int, int], None] | None = None,
    **rules: Any,
) -> Path:
    """Record a task with a model, or with the trained team of a run: what ``tracer record`` does.

    Args:
        task: a task name or the path of a JSONL file.
        out: the file to make, ending in ``.npz``.
        plan: how much of each question.
        num_questions: questions, at least 1; a finite task gives at most what it has.
        split: which questions; ``"train"`` by default.
        data_dir: folder with the task's data.
        run: a finished run directory: its model and adapters are used.
        model: model folder or hub id; the run's by default, else the shipped one.
        max_new_tokens: longest utterance; the run's by default.
        batch_size: texts per generation batch; the run's by default.
        before_loading: called before torch is imported.
        on_chunk: called with (questions done, questions in all).
        **rules: fields of ``Rules``; None stands for the run's, or for the default.

    Returns:
        ``out``.

    Raises:
        ConfigError: if a setting is out of range, or ``out`` belongs to another recording.
    """
    if out.suffix != ".npz":
        raise ConfigError(f"a recording is a file that ends in .npz, not {out}.")
    if out.is_dir() or any(path.exists() and not path.is_dir() for path in out.parents):
        raise ConfigError(f"cannot write {out}: name a file in a folder.")
    if num_questions < 1:
        raise ConfigError(f"the number of questions must be at least 1, not {num_questions}.")
    config = TrainConfig() if run is None else config_of_run(Path(run))
    changes = {"model": model, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "data_dir": data_dir}
    config = TrainConfig.from_settings({k: v for k, v in changes.items() if v is not None}, config)
    if run is not None:  # the rules that the team was trained under
        trained = {name: getattr(config, name) for name in SETTINGS if name != "decide"}
        rules = {**trained, **{name: value for name, value in rules.items() if value is not None}}
    named = task != "arithmetic" and not names_a_file(task)
    game = Game(task, split=split, data_dir=config.data_dir if named else None, **rules)
    check_recordable(game, plan)
    if game.rules.decide == "ballot" and config.policies == "seat" and len(game.rules.seats) > 2:
        raise ConfigError("a ballot's pool has one proposer and one reviewer policy; this run has one for each seat.")
    questions = evaluation_questions(game, num_questions)
    policies = {seat: policy_of(config, seat) for seat in game.rules.seats}
    before_loading()
    loaded, _, generator = load_generator(config, tuple(dict.fromkeys(policies.values())), seed=0)
    adapters = None if run is None else Path(run) / "final" / "adapters"
    if adapters is not None:
        from tracer_agents.generators.policies import load_policies

        load_policies(loaded, adapters, tuple(dict.fromkeys(policies.values())))
    wrote = describe_model(config, adapters)
    writer = GeneratorWriter(game, generator, policies)
    out.parent.mkdir(parents=True, exist_ok=True)
    return record(game, writer, questions, out, plan=plan, model=wrote, on_chunk=on_chunk)
