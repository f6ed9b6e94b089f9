"""A folder in memory for test files: for speed only, never part of what a test proves."""

import os
import shutil
from pathlib import Path

FREE_BYTES = 4 * 2**30


def memory_folder() -> Path | None:
    """An in-memory file system, if there is one with enough space."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > FREE_BYTES:
        return memory
    return None
