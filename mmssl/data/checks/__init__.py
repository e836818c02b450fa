"""Checks of a data set before training, as ``mmssl check-data`` runs them.

Labels are read by the data set's own class and, for label maps, by the config's own loading transform, so
that the checks see the labels that the loss will see.
"""
