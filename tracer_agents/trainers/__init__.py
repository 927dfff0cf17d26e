"""Trainers: the generation-credit layer and the run that alternates both layers."""
