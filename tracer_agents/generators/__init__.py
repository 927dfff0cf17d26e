"""Generators: who writes the texts."""
