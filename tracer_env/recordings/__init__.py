"""Recorded games: the file format, and the recordings that come with the package (``*.npz`` beside this file)."""

from tracer_env.recordings.format import (
    FORMAT_VERSION,
    SETTINGS,
    Recording,
    Utterances,
    hash_of_prompt,
    load_recording,
    read_manifest,
    recording_path,
    save_recording,
    shipped_recordings,
)

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
