"""The OpenMMLab toolboxes below mmssl: distributions, patches, replacements for operators, diagnosis."""
