"""The tasks: where questions come from. One file per data set; ``registry.py`` finds them by name."""
