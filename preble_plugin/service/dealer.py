"""A front end's socket to the scheduler process, with word of its connection.

ZMQ connects again by itself; the socket's monitor says when it did and when the
process at the other end is gone, at once and without a message.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from preble_plugin.service.loop_socket import LoopSocket

_QUEUE_MESSAGES: Final = 8_192


class Dealer:
    """Connects to `address` in the running loop.

    `hear` gets each message, `connected` each change: True for a connection
    made, False for one lost.
    """

    def __init__(
        self,
        address: str,
        hear: Callable[[bytes], None],
        connected: Callable[[bool], None],
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, b"f" + secrets.token_bytes(15))
        self._socket.set_hwm(_QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._monitoring = LoopSocket(
            monitor,
            lambda frames: connected(
                parse_monitor_message(frames)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            ),
        )
        self._reading = LoopSocket(self._socket, lambda frames: hear(frames[-1]))
        self._socket.connect(address)

    def send(self, payload: bytes) -> bool:
        """Send without waiting; False where the queue is full."""
        return self._reading.send(payload)

    def read(self) -> None:
        """Take what has come, now."""
        self._reading.read()

    async def close(self) -> None:
        """Let what is queued leave within 100 ms, and release all."""
        self._socket.disable_monitor()
        self._monitoring.close()
        self._reading.close(linger_ms=100)
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)
