"""Fast forms of parts of the segmenter, chosen by :mod:`mmssl.ops.switch`."""
