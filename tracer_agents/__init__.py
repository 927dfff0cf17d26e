"""Learners for the game of ``tracer_env``: controllers, generators, and the loop that trains both.

Importing this package needs no torch; the modules that do say which extra installs it.
"""

from __future__ import annotations

from tracer_agents.interfaces import Candidate, Controller, ControlValues, Generator, Group, Request

__all__ = ["Candidate", "ControlValues", "Controller", "Generator", "Group", "Request"]
