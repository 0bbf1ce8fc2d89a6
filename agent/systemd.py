"""What systemd is told (sd_notify(3)). The only door to sdnotify."""

import os

import sdnotify


def watchdog_within() -> float | None:
    """Return the watchdog's time in seconds (sd_watchdog_enabled(3)); None: there is none for this process."""
    said, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not said.isdecimal() or not int(said) or (pid and pid != str(os.getpid())):
        return None
    return int(said) / 1_000_000


class Notifier:
    """Sends states to the service manager; without one, and where it does not listen, nothing happens.

    sdnotify encodes Latin-1 and would block on a full socket, so texts are ASCII and the socket does not block.
    """

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        if self._notifier.socket is not None:
            self._notifier.socket.setblocking(False)  # noqa: FBT003  socket's own

    def ready(self) -> None:
        """Tell that the service is up."""
        self._notifier.notify("READY=1")

    def stopping(self) -> None:
        """Tell that the service is going down."""
        self._notifier.notify("STOPPING=1")

    def alive(self) -> None:
        """Tell that the service is well: to be told again within `watchdog_within`."""
        self._notifier.notify("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Tell in one line how it goes, for `systemctl status`."""
        line = " ".join(text.split())
        self._notifier.notify("STATUS=" + line.encode("ascii", "replace").decode("ascii"))

    def close(self) -> None:
        """Close the socket."""
        if self._notifier.socket is not None:
            self._notifier.socket.close()
