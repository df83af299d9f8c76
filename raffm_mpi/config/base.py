"""What all groups of settings share: strict types, no unknown keys, and no option without effect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

FROM_LOG = "settings of a log"  # a validation context: every option was written out, with or without an effect

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


def expanded(path: str) -> str:
    """A path with the home folder for its ``~``; raises ValueError for what no path can be."""
    if not path or "\0" in path:
        raise ValueError(f"{path!r} is no path")
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        raise ValueError(f"'{path}': there is no home folder '{path.split(os.sep)[0]}'")
    return whole


# A path whose ``~`` is the home folder; so it goes into the log. A name on the hub passes as it is.
PathName = Annotated[str, AfterValidator(expanded)]


def _add_up(shares: Any) -> Any:
    if isinstance(shares, str):
        return shares
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"the share of {name} is {share!r}; allowed are fractions in (0, 1]")
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the shares add up to {total:g}; allowed is 1")
    return shares


Shares = Annotated[dict[str, Any], AfterValidator(_add_up)]
NameOrShares = Annotated[str | dict[str, Any], AfterValidator(_add_up)]


class SettingsGroup(BaseModel):
    """A group of settings: no unknown keys, no conversion between types, frozen once read.

    An option that can have no effect beside the others is refused where somebody gives it, and is left out of what is
    written. ``validation_context=FROM_LOG`` lets it pass.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    def without_effect(self) -> Mapping[str, str]:
        """The options that change nothing beside the others: what each goes with, by its name."""
        return {}

    @model_validator(mode="after")
    def _refuse_what_has_no_effect(self, info: ValidationInfo) -> Any:
        if info.context != FROM_LOG:
            idle = {name: why for name, why in self.without_effect().items() if name in self.model_fields_set}
            if idle:
                raise ValueError("; ".join(f"{name} {why}" for name, why in idle.items()))
        return self

    @model_serializer(mode="wrap")
    def _write_what_has_an_effect(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        idle = self.without_effect()
        return {name: value for name, value in handler(self).items() if name not in idle}
