"""Settings: read from files and the environment, validated, frozen. The only door to pydantic."""

from agent.settings.loading import Loaded, load
from agent.settings.models import BUILTIN_SOURCES, BrokerTable, DefaultsTable, Settings
from agent.settings.units import seconds

__all__ = ["BUILTIN_SOURCES", "BrokerTable", "DefaultsTable", "Loaded", "Settings", "load", "seconds"]
