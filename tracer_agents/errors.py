"""Every exception this package raises beyond those of ``tracer_env.errors``, one sentence each."""

from __future__ import annotations

from tracer_env.errors import TracerError

__all__ = [
    "CertificateError",
    "CheckpointError",
    "CollapseError",
    "ContextError",
    "GeneratorError",
    "ModelFolderError",
    "RunDirectoryError",
]


class ModelFolderError(TracerError, OSError):
    """Raised when a model cannot be loaded from what was given; says what was found or missing and what to do."""


class ContextError(TracerError, ValueError):
    """Raised when a question cannot fit into the model's context; names both lengths, in tokens."""

    def __init__(self, prompt_tokens: int, max_prompt_tokens: int, max_new_tokens: int, *, shortened: bool) -> None:
        """Name the lengths and the ways out.

        Args:
            prompt_tokens: length of the shortest version of the prompt, in tokens.
            max_prompt_tokens: the longest prompt that leaves room for the answer, in tokens.
            max_new_tokens: room kept for the answer, in tokens.
            shortened: whether everything that may be cut was cut; a plain ``str`` is never cut.
        """
        state = (
            "even with all that may be cut removed" if shortened else "and is a plain str, which cannot be shortened"
        )
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, {state}, but only {max_prompt_tokens} fit beside the "
            f"{max_new_tokens} kept for the answer. Lower max_new_tokens, drop the question or use a model with a "
            "longer context."
        )


class GeneratorError(TracerError, RuntimeError):
    """Raised when a generator's output cannot be trusted, for example log-probabilities that are not the model's."""


class CertificateError(TracerError, ValueError):
    """Raised when there is nothing to certify, or a game does not fit what was learned."""


class CollapseError(TracerError, RuntimeError):
    """Raised when training has collapsed and going on would only cost time; says what was seen."""


class CheckpointError(TracerError, ValueError):
    """Raised when a checkpoint is incomplete or belongs to another model or team; names the file and the difference."""


class RunDirectoryError(TracerError, OSError):
    """Raised when a run folder cannot be used as asked; says what it holds and which option would allow it."""
