"""What all sections of a configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings that are checked, also when they are changed."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
