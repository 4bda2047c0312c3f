"""Heartbeats of executors, from the bus. What the scheduler says itself goes out by its outbox (`wire.messages`)."""

from contextlib import AbstractAsyncContextManager

from google.protobuf.message import DecodeError
from mesh.events.v1 import events_pb2

from kit.bus import Bus
from kit.telemetry import log
from scheduler.fleet import Fleet, Heartbeat


def executors_followed(bus: Bus, fleet: Fleet) -> AbstractAsyncContextManager[None]:
    """While entered, heartbeats reach the fleet."""

    async def seen(_subject: str, payload: bytes) -> None:
        try:
            message = events_pb2.ExecutorSeen.FromString(payload)
        except DecodeError:
            log().warning("heartbeat.undecodable", size=len(payload))
            return
        if message.address and message.incarnation:
            fleet.heard(
                Heartbeat(
                    message.address, message.incarnation, message.running, message.capacity, draining=message.draining
                )
            )

    return bus.subscribed("executor.seen", seen)
