"""Configs: their location, loading, checks, the catalogue of shipped ones, and their text form."""

# in place of a checkpoint: the model's own random initialization
RANDOM = 'random'
