"""python -m bench.probe SOCKET: asks the agent for its figures again and again, until standard input is closed.

Then it says the longest time, in milliseconds, that an answer took: so long at least the event loop did nothing else.
"""

import select
import socket
import sys
import time

_PAUSE = 0.005
_ASK = b'{"get":"status"}\n'


def main(path: str) -> None:
    longest = 0.0
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], _PAUSE)[0]:
            asked = time.monotonic()
            sock.sendall(_ASK)
            while not sock.recv(65_536).endswith(b"\n"):
                pass
            longest = max(longest, time.monotonic() - asked)
    print("gap", longest * 1000, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
