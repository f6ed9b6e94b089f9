"""The operator's command line: `farebox --help`. One module per family of commands, on one session.

Modules that are slow to load (the server, the price list) are imported inside the commands that need them.
"""

import gc

# Loading modules makes many objects, and hardly one of them goes: with Python's threshold of 700, looking through them
# again and again takes a seventh of the time. A server sets its own threshold (farebox.app).
gc.set_threshold(50_000)
