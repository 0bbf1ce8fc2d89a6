"""Settings: read from files and the environment, validated, frozen. The only door to pydantic."""

from agent.settings.loading import Loaded, load
from agent.settings.models import BUILTIN_SOURCES, DefaultsTable, Settings

__all__ = ["BUILTIN_SOURCES", "DefaultsTable", "Loaded", "Settings", "load"]
