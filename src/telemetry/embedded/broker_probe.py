"""Small blocking questions about ports and brokers."""

import contextlib
import socket
from typing import Final

import mqtt5

_TIMEOUT_S: Final = 0.5


def mqtt_accepts(host: str, port: int, user: str, password: str) -> bool:
    """Whether an MQTT 5 broker answers CONNECT with success within half a second. Blocks so long at most."""
    connect = mqtt5.ConnectPacket(
        user, username=user, password=password.encode(), clean_start=True, keep_alive=10
    ).write()
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        socket.create_connection((host, port), timeout=_TIMEOUT_S) as probe,
    ):
        probe.sendall(connect)
        answer, _ = mqtt5.read(memoryview(probe.recv(4096)))
        probe.sendall(mqtt5.DisconnectPacket().write())
        return isinstance(answer, mqtt5.ConnAckPacket) and int(answer.reason_code) == 0
    return False


def free_port(host: str) -> int:
    """Ask the kernel for a port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            return True
    return False
