"""Configs: where they are, how they are read and checked, and their text form."""
