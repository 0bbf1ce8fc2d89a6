"""What all tables of the settings have in common."""

import re

from pydantic import BaseModel, ConfigDict

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
NAME_RULE = "must be 1 to 64 of A-Z a-z 0-9 . _ -"


class Table(BaseModel):
    """A table: frozen, and without keys that are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
