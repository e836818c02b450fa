"""Configs: their location, loading, checks, the catalogue of shipped ones, and their text form."""
