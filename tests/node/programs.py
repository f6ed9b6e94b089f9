"""Runs Node.js programs with Cloudflare's npm packages."""

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import Customer

NODE = Path(__file__).parent


def installed_node() -> str:
    """The node program, with the packages of tests/node/package.json installed next to it."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        pytest.skip("node and npm are not on this machine")
    with (NODE / "package.json").open() as lock:  # one installation at a time, because tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = json.load(lock)["dependencies"]
        if not all((NODE / "node_modules" / name).is_dir() for name in wanted):
            command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            installed = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=300, check=False)
            if installed.returncode != 0:
                pytest.skip(f"npm could not install the SDK: {installed.stderr.strip()[-300:]}")
    return found


def run(node: str, program: str, customer: Customer) -> str:
    """Run the program; its output."""
    environment = {
        "PATH": os.environ["PATH"],
        "CLOUDFLARE_API_TOKEN": customer.token,
        "CLOUDFLARE_BASE_URL": f"{customer.farebox.url}/client/v4",
        "ACCOUNT_ID": customer.account_id,
    }
    ended = subprocess.run(
        [node, program], cwd=NODE, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
