"""Helpers under the names and with the signatures of ``segment_anything.utils``."""
