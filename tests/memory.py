"""Where the tests may keep files in memory: for speed, never for what a test proves."""

import os
import shutil
from pathlib import Path

FREE_BYTES = 4 * 2**30


def memory_folder() -> Path | None:
    """A file system in memory, where there is one with much room."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > FREE_BYTES:
        return memory
    return None
