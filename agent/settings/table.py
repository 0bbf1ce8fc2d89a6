"""What all tables of the settings have in common."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table: frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
