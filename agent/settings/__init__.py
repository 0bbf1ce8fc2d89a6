"""Settings: read from files and the environment, validated, frozen. The only door to pydantic."""

from agent.settings.loading import Loaded, load
from agent.settings.models import BrokerTable, DefaultsTable, Settings, StreamTable
from agent.settings.units import seconds

__all__ = ["BrokerTable", "DefaultsTable", "Loaded", "Settings", "StreamTable", "load", "seconds"]
