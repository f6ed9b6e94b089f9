"""The operator's command line: `farebox --help`. One module per family of commands, on one session.

Modules that are slow to load (the server, the price list) are imported inside the commands that need them.
"""

import gc

# Loading modules creates many objects, hardly any of which become garbage: with Python's threshold of 700, garbage
# collection takes a seventh of the time. A server sets its own threshold (farebox.app).
gc.set_threshold(50_000)
