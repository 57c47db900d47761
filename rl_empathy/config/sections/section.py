"""What every section of a run file is made of: the frozen base class, its rules, and the number types."""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


RULES_LATER = {"rules": "later"}
"""Context of a validation after which somebody asks for `broken_rules`, to tell of all of them at once."""


class BrokenRule(NamedTuple):
    """A rule between keys that does not hold."""

    keys: tuple[str, ...]
    """All keys that it reads, from the section on (`sampling.temperature`): first the one that is likeliest wrong."""
    text: str
    """What is wrong, with the keys' values and the way out."""


class Section(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, values: Any) -> Any:
        """A section that is given in part keeps the defaults of its place: those that the reference prints."""
        if not isinstance(values, dict):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {
            key: defaults[key].model_dump(exclude_unset=True) | given
            if isinstance(given, dict) and isinstance(defaults.get(key), Section)
            else given
            for key, given in values.items()
        }

    def broken_rules(self) -> Iterator[BrokenRule]:
        """The rules between keys of this section that its values break."""
        yield from ()

    @model_validator(mode="after")
    def _rules_hold(self, info: ValidationInfo) -> Self:
        if info.context != RULES_LATER and (broken := [*self.broken_rules()]):
            raise ValueError("; ".join(rule.text for rule in broken))
        return self
