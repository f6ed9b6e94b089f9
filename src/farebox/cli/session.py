"""What every command uses: the settings, the database, the clock; created on first use."""

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from farebox.clock import RandomIds, SystemClock
from farebox.model import Operator
from farebox.settings import Settings, load, secret_key

if TYPE_CHECKING:
    from farebox.storage.sql import Connection
    from farebox.vault import Vault


class Stopped(Exception):
    """The command cannot be carried out; the message says why, and what to do about it."""


class CliSession:
    """One run of the command line."""

    def __init__(self) -> None:
        self.data_dir: str | None = None
        self.traceback = False
        self.clock = SystemClock()
        self.ids = RandomIds(self.clock)

    def load_settings(self, *, host: str | None = None, port: int | None = None) -> Settings:
        """The settings; options on the command line take precedence."""
        return load(data_dir=self.data_dir, host=host, port=port)

    @cached_property
    def settings(self) -> Settings:
        return self.load_settings()

    @cached_property
    def vault(self) -> "Vault":
        """The vault with the secret key, which is created if there is none yet."""
        from farebox.vault import Vault

        return Vault(make_secret_key(self.settings))

    @cached_property
    def operator(self) -> Operator:
        """Who runs the command: the system user and the machine's name."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # containers may run as a user without a name
            user = str(os.getuid())
        return Operator(f"{user}@{socket.gethostname()}", "command")

    @contextmanager
    def reading(self) -> "Iterator[Connection]":
        """A connection to the database, which must exist: a mistyped folder must not become an empty installation."""
        from farebox.storage.database import opened_for_command

        if self.settings.engine == "sqlite" and not self.settings.database_path.exists():
            raise Stopped(
                f"there is no database at {self.settings.database_path}: create one with `farebox init`, or name its "
                "folder with `farebox --data-dir DIR …`"
            )
        with opened_for_command(self.settings) as connection:
            yield connection

    @contextmanager
    def writing(self) -> "Iterator[Connection]":
        """A connection inside one transaction, committed at the end; a missing database is created."""
        from farebox.storage.database import opened_for_command

        make_data_dir(self.settings)
        with opened_for_command(self.settings, writing=True) as connection:
            yield connection


def make_data_dir(settings: Settings) -> Path:
    """The data folder, created if missing; accessible to its owner only, as its content is worth money. Raises
    Stopped."""
    path = Path(settings.data_dir)
    with usable_data_dir(settings):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def make_secret_key(settings: Settings) -> bytes:
    """The secret key, created in the data folder if there is none. Raises Stopped, SettingsError."""
    make_data_dir(settings)
    with usable_data_dir(settings):
        return secret_key(settings)


@contextmanager
def usable_data_dir(settings: Settings) -> Iterator[None]:
    """Report what goes wrong with the data folder inside, with a remedy. Raises Stopped."""
    try:
        yield
    except OSError as error:
        raise Stopped(
            f"the data folder {settings.data_dir} cannot be used ({error.strerror}): choose another with "
            "`farebox --data-dir DIR …` or FAREBOX_DATA_DIR"
        ) from error


def session_of(context: typer.Context) -> CliSession:
    """The session that `farebox.cli.main` put into the context."""
    session = context.find_object(CliSession)
    assert session is not None
    return session
