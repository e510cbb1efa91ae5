"""What systemd is told of a node: that it is ready, that it stops, and that it is still well (sd_notify(3)).

A datagram on the socket that `NOTIFY_SOCKET` names; without that variable nothing is sent.
"""

import os
import socket
from collections.abc import Mapping

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd `state`, where it listens; return whether it was told. A lost datagram is no fault of the node."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    place = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.sendto(state.encode(), place)
    except OSError:
        return False
    return True


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return how often systemd wants to hear that the node is well, half of its limit; 0 where it does not."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    return int(text) / 2e6 if text.isascii() and text.isdigit() and pid == str(os.getpid()) else 0.0
