"""The operator's command line: `farebox --help`. One module per family of commands, on one session.

Modules that are slow to load (the server, the price list) are imported inside the commands that need them.
"""
