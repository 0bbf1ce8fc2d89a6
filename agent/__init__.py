"""roamd: a telemetry agent for robots and vehicles."""

__version__ = "0.1.0"
