"""Every exception the package raises, one sentence each. Model text never raises; these are programmer errors."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ActionError",
    "ConfigError",
    "DataFormatError",
    "DataNotFoundError",
    "MissingExtraError",
    "RecordedPathError",
    "RecordingError",
    "RewardError",
    "SplitError",
    "TracerError",
    "UnknownNameError",
    "check_type",
    "nearest",
]


def nearest(given: object, known: Iterable[str]) -> str:
    """Return the end of an error message that names the nearest known name, or nothing when none is near."""
    near = get_close_matches(str(given), known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


class TracerError(Exception):
    """Base class of all errors of this library."""


class ConfigError(TracerError, ValueError):
    """Raised when a setting has a value that is not allowed."""


class UnknownNameError(ConfigError):
    """Raised when a name is not one of the known ones; suggests the nearest."""

    def __init__(self, what: str, given: object, known: Iterable[str]) -> None:
        """Say what was given, what is known and which known name is nearest.

        Args:
            what: the kind of thing, for example ``"task"``.
            given: the name that was given.
            known: all valid names.
        """
        names = sorted(known)
        super().__init__(f"unknown {what} {given!r}.{nearest(given, names)} Known: {', '.join(names)}.")


def check_integer(name: str, value: object, least: int = 1) -> None:
    """Check that a setting is an integer (no bool) of at least ``least``.

    Raises:
        ConfigError: naming the setting, its value and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be an integer of at least {least}, not {value!r}.")


def check_type(value: object, kind: type, way_out: str) -> None:
    """Check that an argument is an object of the right class.

    Args:
        value: the argument.
        kind: its class.
        way_out: how to get one, as the end of the message.

    Raises:
        ConfigError: if it is not.
    """
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.60}"
        raise ConfigError(f"a {kind.__name__} is needed here, not {given}: {way_out}")


class ActionError(TracerError, ValueError):
    """Raised when an action cannot be played: bad control, wrong or missing seat, or outside an episode."""


class DataNotFoundError(TracerError, FileNotFoundError):
    """Raised when no source has a task's data; names the three ways out."""


class DataFormatError(TracerError, ValueError):
    """Raised when a data file is malformed; names file, line and field."""


class SplitError(ConfigError):
    """Raised when a task does not have the split that was asked for."""


class MissingExtraError(TracerError, ImportError):
    """Raised when an optional dependency is missing; names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """Say which package is missing, for what, and how to install it."""
        super().__init__(f"{purpose} needs the package {package!r}. Install it with: pip install 'tracer-env[{extra}]'")


class RewardError(TracerError, ValueError):
    """Raised when a reward is not finite; names scheme, agent and turn."""


class RecordingError(DataFormatError):
    """Raised when a recording cannot be used: truncated, changed, of another version, or not a recording at all."""


class RecordedPathError(TracerError, LookupError):
    """Raised when a state is outside the recorded tree; names question and path."""
