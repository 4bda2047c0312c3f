"""The control socket of the shim, from inside. Standard library only; shim.py says what the frames are."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

CONTROL_FD = 3
MAX_CONTROL = 1024 * 1024


class Control:
    """The control socket, from inside. Blocking: nothing else is to happen while we talk on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.passed: list[int] = []

    def send(self, kind: bytes, content: dict[str, Any]) -> None:
        payload = json.dumps(content).encode()
        self.sock.sendall(struct.pack("!I", len(payload)) + kind + payload)

    def receive(self) -> tuple[bytes, dict[str, Any], list[int]]:
        """The next frame with the descriptors that came along. Ends the process when the executor is gone."""
        self.passed = []
        length, kind = struct.unpack("!Ic", self._exactly(5))
        payload = self._exactly(length) if length else b"{}"
        return kind, json.loads(payload), self.passed

    def _exactly(self, wanted: int) -> bytes:
        data = b""
        while len(data) < wanted:
            room = socket.CMSG_SPACE(4 * 4)
            piece, ancillary, _, _ = self.sock.recvmsg(wanted - len(data), room, socket.MSG_CMSG_CLOEXEC)
            if not piece:
                os._exit(66)
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self.passed += struct.unpack(f"{len(content) // 4}i", content)
            data += piece
        return data
