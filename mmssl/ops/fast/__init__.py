"""Fast forms of the operators, chosen by :mod:`mmssl.ops.switch`; each agrees with its plain form."""
