"""The bytes of a client's connection that has switched to another protocol (farebox.channels.Channel)."""

from typing import Protocol

from farebox.channels import Intake
from farebox.errors import ClientGone
from farebox.http.server.outlet import Outlet
from farebox.http.server.state import ServerState


class SwitchedWire(Protocol):
    """The connection."""

    outlet: Outlet
    state: ServerState

    def pause(self) -> None:
        """Read no more for the moment."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def reset(self) -> None:
        """Close at once, and not as if all was said."""
        ...


class Switched:
    """What the client sends is kept until it is taken; while that is much, it is not read."""

    __slots__ = ("_wire", "intake")

    def __init__(self, wire: SwitchedWire) -> None:
        self._wire = wire
        self.intake = Intake(wire.state.loop, wire.pause, wire.resume)
        """For the connection, to add to."""

    async def receive(self) -> bytes:
        return await self.intake.take()

    async def send(self, data: bytes) -> None:
        if self.intake.ended:
            raise ClientGone
        self._wire.outlet.write(data)
        if self._wire.outlet.stalled:
            await self._wire.outlet.drained()
            if self.intake.ended:
                raise ClientGone

    def close(self) -> None:
        """It closes when the handler returns, with all that was sent."""

    def abort(self) -> None:
        self._wire.reset()
