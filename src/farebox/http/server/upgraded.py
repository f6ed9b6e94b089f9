"""The bytes of a client's connection that has switched to another protocol (farebox.channels.Channel)."""

from typing import Protocol

from farebox.channels import Intake
from farebox.errors import ClientGone
from farebox.http.server.state import ServerState
from farebox.http.server.write_buffer import WriteBuffer


class UpgradedWire(Protocol):
    """The connection."""

    write_buffer: WriteBuffer
    state: ServerState

    def pause(self) -> None:
        """Pause reading."""
        ...

    def resume(self) -> None:
        """Resume reading."""
        ...

    def reset(self) -> None:
        """Close at once, without a proper end of the stream."""
        ...


class UpgradedConnection:
    """The client's data is kept until it is taken; if there is much, reading is paused."""

    __slots__ = ("_wire", "intake")

    def __init__(self, wire: UpgradedWire) -> None:
        self._wire = wire
        self.intake = Intake(wire.state.loop, wire.pause, wire.resume)
        """The connection adds received data to it."""

    async def receive(self) -> bytes:
        return await self.intake.take()

    async def send(self, data: bytes) -> None:
        if self.intake.ended:
            raise ClientGone
        self._wire.write_buffer.write(data)
        if self._wire.write_buffer.stalled:
            await self._wire.write_buffer.drained()
            if self.intake.ended:
                raise ClientGone

    def close(self) -> None:
        """Does nothing: the connection closes when the handler returns, after everything is sent."""

    def abort(self) -> None:
        self._wire.reset()
