"""Fast forms of the operators, chosen by :mod:`mmssl.ops.switch`; each computes what its plain form computes."""
