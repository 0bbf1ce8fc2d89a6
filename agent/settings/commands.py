"""[commands]: what may be asked of the robot."""

from pydantic import Field

from agent.settings.table import Table
from agent.settings.units import Number, Seconds


class CommandsTable(Table):
    """[commands]: how commands are taken. Times are in seconds."""

    max_running: Number = Field(default=4, ge=1, le=100)
    max_age: Seconds = Field(default=3600.0, ge=0, le=31_536_000)
    remember: Seconds = Field(default=604_800.0, ge=60, le=31_536_000)
    qos: Number = Field(default=1, ge=1, le=2)
