"""Fast forms of the losses; :mod:`mmssl.ops.switch` chooses them."""
