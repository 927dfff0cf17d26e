"""The file format of recorded games: one ``.npz`` without pickles. docs/concepts/recorded-games.md describes it.

Owns what is stored and how it is checked. How a recording is played is in ``tasks/recorded.py``; how one is made is in
``tracer_agents/record.py``.
"""

from __future__ import annotations

import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracer_env.errors import DataNotFoundError, RecordingError, UnknownNameError
from tracer_env.types import Question, Utterance

__all__ = [
    "FORMAT_VERSION",
    "SETTINGS",
    "Recording",
    "Utterances",
    "hash_of_prompt",
    "load_recording",
    "read_manifest",
    "recording_path",
    "save_recording",
    "shipped_recordings",
]

# shape legend: Q questions, n replicates, W = Q n worlds, N nodes, K candidates, M proposals per pool, V reviews of
# each, U = N K + Q M + Q M V + Q utterances in all

FORMAT_VERSION: Final = 1
_FORMAT: Final = "tracer-recording"
_FOLDER: Final = Path(__file__).resolve().parent
_MAX_BYTES: Final = 100_000_000
_MAX_RATIO: Final = 200
"""A file whose arrays, or one of its texts, claim to unpack to more than both is refused before it is unpacked."""
_UNPACKER_BYTES: Final = 2**28  # LZMA at its highest preset needs 65 MiB
_COLUMNS: Final[Mapping[str, type[np.generic]]] = {
    "verdict": np.int8,
    "correct": np.int8,
    "truncated": np.int8,
    "tokens_in": np.int32,
    "tokens_out": np.int32,
    "mean_logprob": np.float16,
    "min_logprob": np.float16,
    "p_right": np.float16,
}
_NODES: Final[Mapping[str, type[np.generic]]] = {
    "world_nodes": np.int64,
    "node_path": np.uint32,
    "node_seat": np.uint8,
    "prompt_hash": np.uint64,
}
_BLOCKS: Final = ("question_ids", "questions", "golds", "texts", "answers")
SETTINGS: Final = ("proposers", "reviewers", "rounds", "schedule", "decide", "on_invalid")
"""The fields of ``Rules`` that a recording fixes."""
_MANIFEST_KEYS: Final = (
    "name", "task", "split", "kind", "settings", "replicates", "candidates", "proposals", "reviews", "data", "prompts",
    "model", "code", "seed", "temperature", "content",
)  # fmt: skip


@dataclass(frozen=True)
class Utterances:
    """What was said, as columns of length U. Unknown facts are -1 (integers) or NaN (floats).

    Attributes:
        text: the texts.
        answer: parsed answers of proposals; None when unparsable and for reviews.
        verdict: int8: 1 RIGHT, 0 WRONG, -1 unparsable or a proposal.
        correct: int8: 1 when the answer, or the verdict on what was judged, is right, else 0; -1 where nobody knows.
        truncated: int8: 1 when generation stopped at its length limit.
        tokens_in: int32, prompt tokens.
        tokens_out: int32, generated tokens.
        mean_logprob: float16, nats per token.
        min_logprob: float16, nats.
        p_right: float16, P(RIGHT) of a review.
    """

    text: Sequence[str] = ()
    answer: Sequence[str | None] = ()
    verdict: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    correct: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    truncated: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    tokens_in: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    tokens_out: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    mean_logprob: NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, np.float16))
    min_logprob: NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, np.float16))
    p_right: NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, np.float16))

    def __len__(self) -> int:
        """Return U."""
        return len(self.text)

    def utterance(self, row: int) -> Utterance:
        """Return one utterance as the game takes it."""
        truncated = int(self.truncated[row])
        return Utterance(
            self.text[row],
            tokens_in=_known_int(self.tokens_in[row]),
            tokens_out=_known_int(self.tokens_out[row]),
            mean_logprob=_known_float(self.mean_logprob[row]),
            min_logprob=_known_float(self.min_logprob[row]),
            p_right=_known_float(self.p_right[row]),
            truncated=None if truncated < 0 else bool(truncated),
        )

    @classmethod
    def of(
        cls,
        utterances: Sequence[Utterance],
        answers: Sequence[str | None],
        verdicts: Sequence[bool | None],
        correct: Sequence[bool],
    ) -> Utterances:
        """Make the columns. A log-probability below float16's range is stored as its smallest number.

        Args:
            utterances: texts with their facts.
            answers: parsed answers, None for reviews.
            verdicts: True for RIGHT, False for WRONG, None otherwise.
            correct: whether answer or verdict is right.
        """

        def integers(values: Sequence[Any], dtype: type[np.generic]) -> NDArray[Any]:
            return np.array([-1 if v is None else int(v) for v in values], dtype=dtype)

        def floats(values: Sequence[float | None]) -> NDArray[np.float16]:
            wide = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
            return np.clip(wide, float(np.finfo(np.float16).min), 1.0).astype(np.float16)

        return cls(
            text=[str(u) for u in utterances],
            answer=list(answers),
            verdict=integers(verdicts, np.int8),
            correct=integers(correct, np.int8),
            truncated=integers([u.truncated for u in utterances], np.int8),
            tokens_in=integers([u.tokens_in for u in utterances], np.int32),
            tokens_out=integers([u.tokens_out for u in utterances], np.int32),
            mean_logprob=floats([u.mean_logprob for u in utterances]),
            min_logprob=floats([u.min_logprob for u in utterances]),
            p_right=floats([u.p_right for u in utterances]),
        )

    @classmethod
    def join(cls, parts: Sequence[Utterances]) -> Utterances:
        """Put tables one behind the other."""
        return cls(
            text=[t for part in parts for t in part.text],
            answer=[a for part in parts for a in part.answer],
            **{
                name: np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)]).astype(dtype)
                for name, dtype in _COLUMNS.items()
            },
        )


def _known_int(value: np.integer[Any]) -> int | None:
    return None if value < 0 else int(value)


def _known_float(value: np.floating[Any]) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recorded game in memory.

    With ``decide="last"`` it holds the complete control tree of every world (a world is one replicate of one question);
    with ``decide="ballot"`` the nodes are empty and the pool of proposals, with the reviews of each, is the game.

    Attributes:
        manifest: names data, prompts, model and code, and fixes the game (``settings``).
        questions: Q questions.
        world_nodes: int64, shape (W + 1,): nodes of world w are ``world_nodes[w] : world_nodes[w + 1]``; world w is
            replicate ``w % n`` of question ``w // n``.
        node_path: uint32, shape (N,): a leading 1, then one bit for each turn before the node's round (1 is SPEAK).
        node_seat: uint8, shape (N,): which seat speaks, an index into ``Rules.seats``.
        prompt_hash: uint64, shape (N,): ``hash_of_prompt`` of what the seat read.
        tree: table of N K utterances; row ``node * K + k``; candidate 0 is the one that is played on.
        proposals: table of Q M first proposals drawn independently; row ``q * M + m``.
        reviews: table of Q M V reviews of these; row ``(q * M + m) * V + v``.
        greedy: table of Q greedy first proposals.
    """

    manifest: Mapping[str, Any]
    questions: tuple[Question, ...]
    world_nodes: NDArray[np.int64]
    node_path: NDArray[np.uint32]
    node_seat: NDArray[np.uint8]
    prompt_hash: NDArray[np.uint64]
    tree: Utterances
    proposals: Utterances
    reviews: Utterances
    greedy: Utterances

    @property
    def num_worlds(self) -> int:
        """Return W."""
        return len(self.questions) * int(self.manifest["replicates"])


def hash_of_prompt(prompt: str) -> int:
    """Return the 8-byte hash of a prompt that recordings store, in [0, 2**64)."""
    return int.from_bytes(blake2b(prompt.encode("utf-8", "replace"), digest_size=8).digest(), "big")


# --- where recordings are ------------------------------------------------------------------------------------------


def shipped_recordings() -> dict[str, Path]:
    """Return the recordings that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.npz"))}


def recording_path(name: str | os.PathLike[str]) -> Path:
    """Return the file of a recording.

    Args:
        name: the name of a shipped recording, or a path.

    Raises:
        UnknownNameError: if a bare name is neither shipped nor a file.
        DataNotFoundError: if a path does not exist.
    """
    shipped = shipped_recordings()
    if isinstance(name, str) and name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise DataNotFoundError(f"{path} is a folder; a recording is one .npz file.")
    text = os.fspath(name)
    if "/" in text or os.sep in text or text.endswith(".npz"):
        raise DataNotFoundError(f"there is no recording at {path}. Make one with: tracer record --out {path}")
    raise UnknownNameError("recording", name, shipped)


# --- writing -------------------------------------------------------------------------------------------------------


def save_recording(path: str | os.PathLike[str], recording: Recording) -> None:
    """Write a recording to a file, atomically: a reader sees the old file or the whole new one.

    Args:
        path: the file, ending in ``.npz``.
        recording: what to write; ``content`` and the format's version are added to the manifest.
    """
    path = Path(path)
    table = Utterances.join([recording.tree, recording.proposals, recording.reviews, recording.greedy])
    blocks = {
        "question_ids": [q.question_id for q in recording.questions],
        "questions": [q.text for q in recording.questions],
        "golds": [q.gold for q in recording.questions],
        "texts": table.text,
        "answers": ["" if a is None else a for a in table.answer],
    }
    arrays: dict[str, NDArray[Any]] = {name: getattr(recording, name).astype(t) for name, t in _NODES.items()}
    arrays |= {name: getattr(table, name) for name in _COLUMNS}
    arrays["has_answer"] = np.array([a is not None for a in table.answer], dtype=np.bool_)
    for name, texts in blocks.items():
        encoded = [t.encode("utf-8", "replace") for t in texts]
        arrays[name] = np.frombuffer(_pack(b"".join(encoded)), dtype=np.uint8)
        arrays[name + "_length"] = np.array([len(e) for e in encoded], dtype=np.uint32)
    manifest = {k: v for k, v in recording.manifest.items() if k != "content"}
    manifest |= {"format": _FORMAT, "version": FORMAT_VERSION}
    manifest["content"] = _content_hash(manifest, arrays)
    arrays["manifest"] = np.frombuffer(json.dumps(manifest, sort_keys=True).encode(), dtype=np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _pack(data: bytes) -> bytes:
    """Compress as well as LZMA can. A dictionary longer than the data would only cost time and memory."""
    size = min(max(len(data), 4096), 2**26)
    return lzma.compress(
        data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}]
    )


def _content_hash(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = sha256(json.dumps(manifest, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# --- reading -------------------------------------------------------------------------------------------------------


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check the manifest alone.

    Raises:
        RecordingError: if the file is truncated, of another format or version, or lacks a part.
    """
    return _read(Path(path), ("manifest",))[0]


def load_recording(path: str | os.PathLike[str]) -> Recording:
    """Read and check a whole recording.

    Raises:
        DataNotFoundError: if there is no such file.
        RecordingError: if the file is truncated, of another version, claims to unpack to more than a recording does,
            its content does not have the hash that its manifest states, or its parts do not fit together.
    """
    path = Path(path)
    names = (*_NODES, *_COLUMNS, "has_answer", *_BLOCKS, *(f"{b}_length" for b in _BLOCKS))
    manifest, arrays = _read(path, ("manifest", *names))
    stated = manifest["content"]
    if _content_hash({k: v for k, v in manifest.items() if k != "content"}, arrays) != stated:
        raise RecordingError(f"{path} has changed since it was written: its content does not have the stated hash.")
    _check_types(path, manifest, arrays)
    limit = _limit(path)
    blocks = {name: _unpack(path, name, arrays, limit) for name in _BLOCKS}
    if not len(blocks["question_ids"]) == len(blocks["questions"]) == len(blocks["golds"]) > 0:
        raise RecordingError(f"{path}: its parts do not fit together (questions).")
    questions = tuple(
        Question(i, text, gold, manifest["kind"])
        for i, text, gold in zip(blocks["question_ids"], blocks["questions"], blocks["golds"], strict=True)
    )
    count = len(questions)
    pool, reviews = count * manifest["proposals"], count * manifest["proposals"] * manifest["reviews"]
    tree = len(arrays["node_path"]) * manifest["candidates"]
    ends = np.cumsum([0, tree, pool, reviews, count])
    lengths = {name: len(arrays[name]) for name in (*_COLUMNS, "has_answer")}
    lengths |= {name: len(blocks[name]) for name in ("texts", "answers")}
    wrong = [name for name, length in lengths.items() if length != ends[-1]]
    worlds, nodes = arrays["world_nodes"], len(arrays["node_path"])
    wrong += [name for name in ("node_seat", "prompt_hash") if len(arrays[name]) != nodes]
    if len(worlds) != count * manifest["replicates"] + 1 or (worlds[0], worlds[-1]) != (0, nodes):
        wrong.append("world_nodes")
    if wrong or (np.diff(worlds) < 0).any():
        raise RecordingError(f"{path}: its parts do not fit together ({', '.join(wrong) or 'world_nodes'}).")
    answers = [a if has else None for a, has in zip(blocks["answers"], arrays["has_answer"], strict=True)]

    def rows(first: int, last: int) -> Utterances:
        columns = {name: arrays[name][first:last] for name in _COLUMNS}
        return Utterances(text=blocks["texts"][first:last], answer=answers[first:last], **columns)

    tables = [rows(int(a), int(b)) for a, b in pairwise(ends)]
    return Recording(
        manifest=manifest,
        questions=questions,
        **{name: arrays[name] for name in _NODES},
        tree=tables[0],
        proposals=tables[1],
        reviews=tables[2],
        greedy=tables[3],
    )


def _limit(path: Path) -> int:
    """Return the most bytes that a file may unpack to: real texts shrink to a tenth, not to a thousandth."""
    return max(_MAX_BYTES, _MAX_RATIO * path.stat().st_size)


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if not path.is_file():
        raise DataNotFoundError(f"there is no recording at {path}. Make one with: tracer record --out {path}")
    try:
        with zipfile.ZipFile(path) as file:
            members = {name: file.getinfo(f"{name}.npy") for name in names}
            claimed, limit = sum(member.file_size for member in members.values()), _limit(path)
            if claimed > limit:
                raise RecordingError(f"{path} claims to hold {claimed} bytes; at most {limit} are read.")
            arrays = {name: _array(file.read(member)) for name, member in members.items()}
        manifest = json.loads(arrays.pop("manifest").tobytes())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(
            f"{path} is not a recording, or it is truncated or damaged ({type(error).__name__}: {error}). "
            f"Make it again with: tracer record"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise RecordingError(f"{path} is not a recording: its manifest does not say {_FORMAT!r}.")
    if manifest.get("version") != FORMAT_VERSION:
        raise RecordingError(
            f"{path} is a recording of version {manifest.get('version')!r}; this library reads version "
            f"{FORMAT_VERSION}. Make it again with: tracer record"
        )
    missing = [key for key in _MANIFEST_KEYS if key not in manifest]
    if missing:
        raise RecordingError(f"{path}: its manifest lacks {missing}.")
    return manifest, arrays


def _array(data: bytes) -> NDArray[Any]:
    """Read one member; NumPy's own reader would take the memory that the header claims before it looks.

    Raises:
        ValueError: if the header does not fit the bytes, or asks for Python objects.
    """
    stream = BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another NumPy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return np.frombuffer(data, dtype=dtype, offset=stream.tell()).reshape(shape)


def _check_types(path: Path, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Check what the hash does not: that whoever wrote the file meant a recording."""
    types = {"has_answer": np.bool_, **_NODES, **_COLUMNS}
    types |= dict.fromkeys(_BLOCKS, np.uint8) | {f"{name}_length": np.uint32 for name in _BLOCKS}
    for name, dtype in types.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise RecordingError(f"{path}: {name} must be one-dimensional {np.dtype(dtype)}.")
    for name, least in (("replicates", 1), ("candidates", 1), ("proposals", 0), ("reviews", 0)):
        value = manifest[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise RecordingError(f"{path}: {name} must be an integer of at least {least}, not {value!r}.")
    if not isinstance(manifest["settings"], dict) or set(manifest["settings"]) != set(SETTINGS):
        raise RecordingError(f"{path}: settings must be exactly {', '.join(SETTINGS)}, not {manifest['settings']!r}.")


def _unpack(path: Path, name: str, arrays: Mapping[str, NDArray[Any]], limit: int) -> list[str]:
    lengths = arrays[name + "_length"].astype(np.int64)
    total = int(lengths.sum())
    if total > limit:
        raise RecordingError(f"{path}: {name} claims {total} bytes of text; at most {limit} are read.")
    try:
        unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_UNPACKER_BYTES)
        data = unpacker.decompress(arrays[name].tobytes(), max_length=total + 1)
    except lzma.LZMAError as error:
        raise RecordingError(f"{path}: {name} cannot be unpacked ({error}).") from error
    if len(data) != total or not unpacker.eof:
        raise RecordingError(f"{path}: {name} does not hold the {total} bytes of text that it claims.")
    ends = np.cumsum(lengths)
    return [data[end - length : end].decode("utf-8", "replace") for end, length in zip(ends, lengths, strict=True)]
