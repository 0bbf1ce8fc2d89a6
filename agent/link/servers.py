"""Which broker is next: the list in the settings, and where a broker refers to another. Pure."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from agent.model import Server

_MOST_HOPS = 3
_PORTS = {False: 1883, True: 8883}


def references(text: str, *, like: Server) -> list[Server]:
    """Read a Server Reference (MQTT 5 section 4.11): names, each with a port or without, separated by spaces.

    TLS is spoken there where it was spoken with the server that refers. What is no address is left out.
    """
    found = []
    for word in text.split():
        try:
            parts = urlsplit(f"//{word}")
            host, port = parts.hostname, parts.port
        except ValueError:
            continue
        if host and not parts.path and "@" not in word and port != 0:
            found.append(Server(host=host, port=port or _PORTS[like.is_tls], is_tls=like.is_tls))
    return found


class Servers:
    """The brokers in their order, and the one to try now.

    They are tried in rounds. A round begins with the one that was connected last, whose session is the robot's, and
    goes on in the order of the settings.

    `referrals` names other hosts that a broker may refer to, each a name or `*.example.com`.
    """

    def __init__(self, servers: Sequence[Server], *, referrals: Sequence[str] = ()) -> None:
        self._servers = tuple(servers)
        self._referrals = tuple(name.lower() for name in referrals)  # as references are read
        self._round = list(self._servers)
        self._place = 0
        self._referred: Server | None = None
        self._was_referred_to = False
        """Whether the referred one was connected."""
        self._hops = 0

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def current(self) -> Server:
        """The one to try now, or that is connected."""
        return self._referred or self._round[self._place]

    @property
    def preferred(self) -> Server:
        """The first of the settings."""
        return self._servers[0]

    @property
    def is_away(self) -> bool:
        """Whether the current one is another than the preferred one, by the order of the list."""
        return self._referred is None and self.current != self.preferred

    def connected(self) -> None:
        """Note that the current one is connected: the next round begins with it."""
        self._was_referred_to = self._referred is not None
        if self._referred is None:
            place, self._place = self._place, 0
            self._round.insert(0, self._round.pop(place))

    def failed(self) -> bool:
        """Go on to the next one; tell whether the round is over, so that it is time to wait longer.

        After a referred one that was connected it is the one that had referred to it; else that has had its turn.
        """
        self._hops = 0
        was_connected, self._was_referred_to = self._was_referred_to, False
        self._referred = None
        if was_connected:
            return len(self._servers) == 1
        self._place += 1
        if self._place < len(self._round):
            return False
        self._round, self._place = list(self._servers), 0
        return True

    def settled(self) -> None:
        """Note that the current one has kept the link: what it may say later is no part of the same circle."""
        self._hops = 0

    def go_home(self) -> None:
        """Make the preferred one the current one."""
        self._round, self._place, self._referred = list(self._servers), 0, None

    def refer(self, text: str) -> Server | None:
        """Follow a Server Reference, if it is allowed, and return where to; None: the next one in the list it is."""
        if self._hops >= _MOST_HOPS:
            return None
        current = self.current
        for server in references(text, like=current):
            if server != current and self._is_allowed(server.host):
                self._referred, self._was_referred_to, self._hops = server, False, self._hops + 1
                return server
        return None

    def _is_allowed(self, host: str) -> bool:
        return any(host == server.host for server in self._servers) or any(
            host.endswith(name[1:]) if name.startswith("*.") else host == name for name in self._referrals
        )
