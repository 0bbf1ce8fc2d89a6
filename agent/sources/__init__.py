"""What can be read on this machine, a file each. The only door to psutil."""

from agent.sources.cpu import Cpu
from agent.sources.disk import Disk
from agent.sources.host import Host
from agent.sources.memory import Memory
from agent.sources.network import Network
from agent.sources.source import Field, Source
from agent.sources.thermal import Thermal

__all__ = ["SOURCES", "Field", "Source", "make"]

SOURCES: dict[str, type[Source]] = {
    "cpu": Cpu,
    "memory": Memory,
    "disk": Disk,
    "network": Network,
    "thermal": Thermal,
    "host": Host,
}


def make(name: str) -> Source:
    """Return a source by its name in the settings. Raises KeyError where there is none of that name."""
    return SOURCES[name]()
