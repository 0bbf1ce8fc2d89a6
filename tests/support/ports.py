import random
import socket
from pathlib import Path


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listens.

    It lies below the range that the kernel gives to outgoing connections: there a client that tries a closed port again
    and again may one day be connected to itself, and hold the port when its broker wants it back.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    for port in random.sample(range(10_000, lowest), 50) if lowest > 11_000 else [0] * 50:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")
