"""A generator that writes what a script says: tests and examples without a model.

Its token ids and log-probabilities are made up, and say so: they have the right shapes and ranges, but no model would
give them, so they cannot be trained on.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tracer_agents.errors import GeneratorError
from tracer_agents.interfaces import Candidate, Request
from tracer_env import Role

__all__ = ["Script", "ScriptedGenerator"]

Script = Callable[[Request, np.random.Generator], str] | Mapping[str, str] | Sequence[str]
"""A function of the request; a mapping from a policy's name, or from a role, to a text; or texts to cycle through."""

_END = 0  # pseudo-id of the end-of-text token
_NUM_IDS = 2**16


class ScriptedGenerator:
    """Writes scripted texts. Satisfies ``tracer_agents.interfaces.Generator``.

    A pseudo-token is a word between blanks; its id is a hash of the word (never 0), followed by the end-of-text id 0.
    Log-probabilities are drawn uniformly from [-1, 0). A reviewer's ``p_right`` is 0.9 when the text starts with
    RIGHT, 0.1 when it starts with WRONG and 0.5 otherwise.

    >>> from tracer_env import Role
    >>> generator = ScriptedGenerator({"proposer": "#### 4", "reviewer": "RIGHT"})
    >>> request = Request(prompt="2 + 2 = ?", policy="proposer_0", role=Role.PROPOSER)
    >>> [c.text for c in generator.generate([request])]
    ['#### 4']
    """

    def __init__(self, script: Script, *, seed: int = 0) -> None:
        """Store the script.

        Args:
            script: see ``Script``. A mapping is asked for the policy first, then for the role.
            seed: of the generator that a callable script is given.
        """
        self._script = script
        self._rng = np.random.default_rng(seed)
        self._position = 0

    def reseed(self, seed: int) -> None:
        """Restart the randomness; a sequence starts again at its first text."""
        self._rng = np.random.default_rng(seed)
        self._position = 0

    def generate(self, requests: Sequence[Request]) -> list[Candidate]:
        """Write one text per request, in order.

        Raises:
            GeneratorError: if a mapping has neither the policy nor the role of a request, or a sequence is empty.
        """
        return [self._candidate(request, self._write(request)) for request in requests]

    def _write(self, request: Request) -> str:
        script = self._script
        if callable(script):
            return script(request, self._rng)
        if isinstance(script, Mapping):
            for key in (request.policy, request.role.value):
                if key in script:
                    return script[key]
            raise GeneratorError(
                f"the script has no text for policy {request.policy!r} or role {request.role.value!r}; "
                f"it has {', '.join(map(repr, script))}"
            )
        if not script:
            raise GeneratorError("the script is an empty sequence; give at least one text")
        text = script[self._position % len(script)]
        self._position += 1
        return text

    def _candidate(self, request: Request, text: str) -> Candidate:
        token_ids = _pseudo_ids(text)
        return Candidate(
            text=text,
            prompt_ids=_pseudo_ids(request.prompt)[:-1],
            token_ids=token_ids,
            logprobs=(self._rng.random(len(token_ids)) - 1.0).astype(np.float32),
            p_right=_p_right(text) if request.role is Role.REVIEWER else None,
        )


def _pseudo_ids(text: str) -> NDArray[np.int64]:
    """Return one id per word and the end-of-text id, shape (words + 1,)."""
    # crc32 and not hash(): the same in every process.
    words = [1 + zlib.crc32(word.encode("utf-8", "replace")) % (_NUM_IDS - 1) for word in text.split()]
    return np.array([*words, _END], dtype=np.int64)


def _p_right(text: str) -> float:
    first_word = text.split(maxsplit=1)[:1]
    return {"RIGHT": 0.9, "WRONG": 0.1}.get(first_word[0] if first_word else "", 0.5)
