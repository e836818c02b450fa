"""One module a command of ``mmssl``; see mmssl/cli.py for what such a module holds."""
