"""Connections to hosts that a secret of the run is filled in for: opened, on both sides, for relay.py in between.

Towards the workflow they are TLS by a certificate of our own authority, which its sandbox trusts; towards the server by
its own certificate, which is verified before a byte of a request is read.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

from executor.egress.authority import Authority
from executor.egress.carry import Carried, reset
from executor.egress.fill import FillIn, Filling, filling_at
from executor.egress.gate import Failed, Streams
from executor.egress.log import Contact
from executor.egress.relay import Notes, Refused, Relay

HANDSHAKE_SECONDS = 10.0


class Interception:
    """One run's."""

    def __init__(self, authority: Authority, fill_ins: Sequence[FillIn], notes: Notes | None = None) -> None:
        """`notes`: where the exchanges of a recorded run are written down."""
        self._authority = authority
        self._fill_ins = fill_ins
        self._notes = notes

    def at(self, host: str, port: int) -> Filling | None:
        """What is filled in on a connection to this name, or literal address; None where it is to be left alone."""
        return filling_at(self._fill_ins, host, port)

    async def filling(self, _sock: socket.socket, host: str, port: int) -> Filling | None:
        """As `at`, for a connection that has come."""
        return self.at(host, port)

    async def serve(
        self,
        sock: socket.socket,
        outside: Streams,
        filling: Filling,
        carried: Carried,
        contact: Contact,
        refused: Callable[[str], None],
    ) -> None:
        """Until it ends. `sock` comes from the workflow; `outside` leads to the server, and nothing was said on it.
        Where the server isn't who it should be, `contact` says so and the workflow is answered.
        Errors: Failed, OSError.
        """
        refusal, server = None, outside
        if filling.tls:
            try:
                server = await _to_server(outside, self._authority.upstream, filling.host)
            except Refused as error:
                refusal = error
                # At once: the run may end before it has read the answer.
                contact.verdict = "denied" if error.code == "upstream_not_verified" else "failed"
                contact.reason = str(error)
        ends = [server[1]]
        try:
            inside = await to_workflow(self._authority, sock, filling)
            ends.append(inside[1])
            relay = Relay(inside, None if refusal else server, filling, carried, refused, self._notes)
            if refusal is None:
                await relay.run()
                return
            with suppress(OSError):  # it hung up on the answer
                await relay.refuse(refusal)
        finally:
            for end in ends:
                reset(end)


async def to_workflow(authority: Authority, sock: socket.socket, filling: Filling) -> Streams:
    """The workflow's end of a connection, by a certificate of ours where TLS is spoken. Errors: Failed, OSError."""
    if not filling.tls:
        return await asyncio.open_connection(sock=sock)
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    context = authority.server(filling.host)
    try:
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, sock, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
    except OSError as error:
        why = (error.reason or "") if isinstance(error, ssl.SSLError) else "it hung up"
        raise Failed(f"the workflow's TLS handshake failed: {why.lower().replace('_', ' ')}") from None
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _to_server(plain: Streams, context: ssl.SSLContext, host: str) -> Streams:
    """TLS with whoever proves to be `host`. Errors: Refused."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    try:
        transport = await loop.start_tls(
            plain[1].transport, protocol, context, server_hostname=host, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
    except ssl.SSLCertVerificationError as error:
        raise Refused(
            502, "upstream_not_verified", f"the certificate of {host} can't be verified: {error.verify_message}"
        ) from None
    except OSError as error:
        why = (error.reason or "") if isinstance(error, ssl.SSLError) else "it hung up"
        what = why.lower().replace("_", " ")
        raise Refused(502, "upstream_failed", f"no TLS connection with {host} can be had: {what}") from None
    if transport is None:
        raise Refused(502, "upstream_failed", f"no TLS connection with {host} can be had: it hung up")
    protocol.connection_made(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
