"""What a model file says of how the model was made."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ase_ws.errors import UserError
from ase_ws.files.mistakes import first_mistake


class Provenance(BaseModel):
    """The facts that the program reads again; others may stand beside them.

    `largest_training_force_ev_per_angstrom` is where `md` and `stability` take their limit from.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    created: str = ""
    n_train: int = 0
    n_train_with_forces: int = 0
    largest_training_force_ev_per_angstrom: (
        Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    ) = None
    trained_on: list[str] = []
    e0: dict[str, Any] = {}
    notes: dict[str, Any] | str = {}
    validation: dict[str, float | None] = {}


def check_provenance(facts: Any) -> None:
    """Refuse facts that are of another type than what `finetune` writes under that name.

    Raises
    ------
    UserError
        Names the fact.
    """
    if not isinstance(facts, dict):
        raise UserError(f"provenance is a {type(facts).__name__}, expected named facts")
    try:
        Provenance.model_validate(facts)
    except ValidationError as error:
        field, message = first_mistake(error, Provenance)
        raise UserError(f"provenance, {field:.80}: {message}") from error
