"""What msgspec must know before there are threads."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from farebox.gateway import GatewayConfig
from farebox.storage.database import open_database
from farebox.struct_types import prepare_struct_types
from tests.support import running_farebox


def test_types_are_prepared_before_a_server_opens_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def prepared() -> Any:
        done.append("types")
        return prepare_struct_types()

    async def opened(*args: Any, **more: Any) -> Any:
        done.append("database")
        return await open_database(*args, **more)

    monkeypatch.setattr("farebox.runtime.opening.prepare_struct_types", prepared)
    monkeypatch.setattr("farebox.runtime.opening.open_database", opened)
    with running_farebox(tmp_path):
        pass
    assert done == ["types", "database"]


def test_every_type_that_can_be_decoded_into_is_prepared() -> None:
    class Nested(msgspec.Struct):
        inner: GatewayConfig

    class Undecodable(msgspec.Struct):
        either: asyncio.Lock | asyncio.Event

    left = prepare_struct_types()
    assert Undecodable in left
    assert not {Nested, GatewayConfig} & set(left)
