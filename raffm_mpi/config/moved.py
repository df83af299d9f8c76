"""Settings of release 0.1 that have moved: what a sentence says of them, and how a log of then is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# The new spelling of each, made of the value that was given.
MOVED: dict[str, Callable[[Any], str]] = {
    "federation.paper_faithful": lambda given: f"aggregation: {'official' if given is True else 'mean'}",
    "model.lora.aggregation": lambda given: f"aggregation: {given}",
    "method.widths": lambda given: f"method.budget: {'drawn' if given == 'budget' else 'sandwich'}",
    "method.budgets": lambda given: f"method.budget: {{kind: drawn, shares: {given}}}",
    "method.budget_of": lambda given: f"method.budget: {{kind: drawn, of: {given}}}",
}


def now(place: str, given: Any) -> str | None:
    """What a sentence says of a setting that has moved; None of any other.

    >>> now("method.budgets", [1.0, 0.5])
    'is now method.budget: {kind: drawn, shares: [1.0, 0.5]}'
    """
    return f"is now {MOVED[place](given)}" if place in MOVED else None


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a log of any release, spelled as today."""
    new = dict(values)
    kind = "mean"
    if isinstance(federation := new.get("federation"), dict) and "paper_faithful" in federation:
        kind = "official" if federation["paper_faithful"] else kind
        new["federation"] = _without(federation, "paper_faithful")
    model = new.get("model")
    if isinstance(model, dict) and isinstance(lora := model.get("lora"), dict) and "aggregation" in lora:
        kind = lora["aggregation"] if kind == "mean" else kind
        new["model"] = {**model, "lora": _without(lora, "aggregation")}
    if kind != "mean":
        new.setdefault("aggregation", {"kind": kind})
    if isinstance(method := new.get("method"), dict) and "budgets" in method:
        new["method"] = {**_without(method, "widths", "budgets", "budget_of"), "budget": _budget(method)}
    return new


def _budget(method: Mapping[str, Any]) -> dict[str, Any]:
    """The budget of a method of 0.1, whose settings were all written out."""
    if method.get("budget") == "device":
        return {"kind": "device"}
    if method.get("widths") == "sandwich":
        return {"kind": "sandwich"}
    return {"kind": "drawn", "shares": method["budgets"], "of": method.get("budget_of")}


def _without(group: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in names}
