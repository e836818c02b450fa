"""The commands of ``mmssl``, one module each; :mod:`mmssl.commands.table` lists them.

A command module has ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int | None``. Heavy
imports (torch, the toolboxes) belong inside ``run``, so that ``mmssl --help`` is immediate.
"""
