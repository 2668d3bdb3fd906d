"""Experiments written down in a file: the arguments of `create_test` as YAML or JSON, with errors that name line and key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from modelyard.ab_testing import metrics as measured
from modelyard.ab_testing import plans, sizing
from modelyard.ab_testing.experiments import CONTROL, TREATMENT, ABTest, Held
from modelyard.ab_testing.metrics import Kind, Metric
from modelyard.core import declared
from modelyard.core.declared import Change, Entries, Place
from modelyard.core.errors import Invalid
from modelyard.core.ids import checked_name
from modelyard.core.refs import ModelRef

TEXTS = ("name", "description", "endpoint", "unit", "strategy", "exclusive_group", "inference")
COUNTS = ("planned_units", "horizon", "round_units")
PARTS = ("group_share", "tolerated_loss")  # may be written as 0.5%
VARIANT = ("name", "version", "share")
ARM = "{name: bigger, version: v2.0.0, share: 30%}"
PLAN = ("lift", "base_rate", "mean", "deviation", "looks", "power", "covariate_correlation")
GUARD = {"alpha": "guard_alpha", "latency_margin": "latency_margin", "latency_floor_ms": "latency_floor_ms"}
KEYS = (*TEXTS, "control", "variants", "metrics", *COUNTS, *PARTS, "plan", "ramp_seconds", "prior", "holdouts", "guard")
METRIC = tuple(field.name for field in fields(Metric))
EXAMPLES = {"plan": "{lift: 5%, base_rate: 10%, looks: 20}", "metrics": "{name: spent, kind: mean, role: goal}"}
LEAST = {"name": "any", "control_variant": "m:v1.0.0", "treatment_variant": "m:v2.0.0"}
BY = {  # key -> the arguments that it gives, or is read with
    "control": ("control_variant",),
    "variants": ("treatment_variant", "treatment_names", "traffic_split"),
    "plan": ("planned_units",),
    "guard": tuple(GUARD.values()),
    "strategy": ("strategy", "ramp_seconds"),
    "ramp_seconds": ("strategy", "ramp_seconds"),
    "group_share": ("group_share", "exclusive_group"),
    **{key: (key, "inference") for key in ("prior", "tolerated_loss", "round_units")},
}


@dataclass(frozen=True, slots=True)
class Declared:
    """The test that a file asks for, and where each thing that it says of it stands, by the keys of changes."""

    path: str
    test: ABTest
    places: Mapping[str, Place]

    def line(self, key: str) -> int | None:
        """The line that says it, or what it is part of; None for what the file leaves out."""
        while key not in self.places and "." in key:
            key = key.rpartition(".")[0]
        return self.places[key].line if key in self.places else None

    def at(self, change: Change) -> Change:
        """The change with its line."""
        return replace(change, line=self.line(change.key))


def read_experiment(path: str | Path) -> Declared:
    """The test that a file asks for; Invalid names the line and the key that is wrong or missing.

    `control` is a version, and `variants` are versions, or {name: bigger, version: v2.0.0, share: 30%}; without shares all
    arms have the same. `plan` says what is to be found, in the words of `plan_test`, in place of `planned_units`.
    """
    top = declared.opened(path, "experiment", "name: Ranking")
    declared.only(top, KEYS)
    for key in ("name", "control", "variants"):
        if key not in top:
            raise Invalid(f"{path} does not say which {key}. Add a line {key}: ...")
    given: dict[str, Any] = {}
    for key in [key for key in top if key not in ("control", "variants", "plan", "holdouts")]:
        given |= _guard(*top[key]) if key == "guard" else {key: _read(*top[key], key)}
    places = {key: place for key, (place, _) in top.items()}
    places |= {name: places["guard"] for name in GUARD.values() if "guard" in top}
    arms, where = _arms(top, given.get("endpoint", ""))
    given |= arms
    if "ramp_seconds" in given:
        given.setdefault("strategy", "ramp")
    endpoint = given.pop("endpoint", "")
    declared.check(plans.wanted, given, {key: one for key, one in top.items() if key != "plan"}, LEAST, BY)
    test = replace(plans.wanted(**given), endpoint=endpoint, holdouts=_holdouts(top))
    if "plan" in top:
        test = replace(test, planned_units=_planned(top, test))
        places["planned_units"] = places["plan"]
    _check_endpoint(top, test)
    return Declared(str(path), test, {**places, **where, **_metric_places(top)})


def _read(place: Place, node: yaml.Node, key: str) -> Any:
    """The argument that one key gives."""
    if key in TEXTS:
        return declared.text(place, node)
    if key in COUNTS:
        return declared.count(place, node)
    if key in PARTS:
        return declared.part(place, node)
    if key == "ramp_seconds":
        return declared.duration(place, node)
    if key == "prior":
        return [declared.number(one, item) for one, item in declared.items(place, node, "[10, 90]")]
    return [_metric(one, item) for one, item in declared.items(place, node, f"[{EXAMPLES['metrics']}]")]


def _metric(place: Place, node: yaml.Node) -> dict[str, Any]:
    """A metric as `create_test` takes it."""
    told = declared.parts(place, node, METRIC, EXAMPLES["metrics"])
    found = {
        name: (declared.part if name in ("margin", "quantile") else declared.text)(*entry)
        for name, entry in told.items()
    }
    with declared.at(place):
        measured.checked(found)
    return found


def _guard(place: Place, node: yaml.Node) -> dict[str, float]:
    """The arguments that say when the serving processes take a treatment back."""
    told = declared.parts(place, node, GUARD, "{alpha: 0.1%, latency_margin: 100%}")
    return {GUARD[name]: declared.part(*entry) for name, entry in told.items()}


def _arms(top: Entries, endpoint: str) -> tuple[dict[str, Any], dict[str, Place]]:
    """The arguments that control and variants give, and where each arm and its share stand."""
    control, share, places = _arm(*top["control"], CONTROL, endpoint)
    names: list[str] = []
    models: list[str] = []
    shares: list[float | None] = []
    listed = declared.items(*top["variants"], f"[v2.0.0] or [{ARM}]")
    for number, (place, node) in enumerate(listed, 1):
        usual = TREATMENT if number == 1 else f"{TREATMENT}_{number}"
        name = _named(place, node, names) or usual
        model, one, where = _arm(place, node, name, ModelRef.parse(control).name)
        names, models, shares = [*names, name], [*models, model], [*shares, one]
        places |= where
    split = _split(top["variants"][0], share, shares)
    return {
        "control_variant": control,
        "treatment_variant": models,
        "treatment_names": names,
        "traffic_split": split,
    }, places


def _named(place: Place, node: yaml.Node, taken: list[str]) -> str:
    """The name that a variant says it has, if it says one."""
    told = declared.parts(place, node, VARIANT, ARM) if isinstance(node, yaml.MappingNode) else {}
    if "name" not in told:
        return ""
    where, of = told["name"]
    name = declared.text(where, of)
    if name in taken:
        raise where.wrong(f"there is a variant {name} already. Choose another name.")
    with declared.at(where):
        plans.check_treatment(name)
    return name


def _arm(place: Place, node: yaml.Node, name: str, model: str) -> tuple[str, float | None, dict[str, Place]]:
    """An arm's version as name:version, its share if it says one, and where both stand."""
    told: Entries = {"version": (place, node)}
    if isinstance(node, yaml.MappingNode):
        known = VARIANT[1:] if name == CONTROL else VARIANT
        told = declared.parts(place, node, known, "{version: v2.0.0, share: 30%}")
        if "version" not in told:
            raise place.wrong("does not say which version. Write {version: v2.0.0, ...}.")
    where, of = told["version"]
    written = declared.text(where, of)
    if ":" not in written and not model:
        raise where.wrong(f"{written} is a version of which model? Write it as name:{written}.")
    reference = written if ":" in written else f"{model}:{written}"
    with declared.at(where):
        ModelRef.parse(reference)
    places = {f"variants.{name}": place, f"variants.{name}.model": where}
    if "share" not in told:
        return reference, None, places
    return reference, declared.part(*told["share"]), {**places, f"variants.{name}.share": told["share"][0]}


def _split(place: Place, control: float | None, shares: list[float | None]) -> list[float]:
    """The treatments' shares: those given, which have to leave the control its own; or the same for every arm."""
    given = [share for share in shares if share is not None]
    if not shares:
        raise place.wrong("lists no variant. Give one at least, for example [v2.0.0].")
    if given and len(given) < len(shares):
        raise place.wrong("say a share for each variant, or for none: then all arms have the same.")
    if not given:
        rest = 1 / (len(shares) + 1) if control is None else (1 - control) / len(shares)
        given = [rest] * len(shares)
    whole = math.fsum([*given, *([] if control is None else [control])])
    told = " + ".join(f"{share:.4g}" for share in given)
    if control is not None and not math.isclose(whole, 1, abs_tol=1e-9):
        raise place.wrong(
            f"the shares {told} and the control's {control:.4g} add up to {whole:.6g}. They must add up to 1."
        )
    if any(not 0 < share < 1 for share in given) or (control is None and whole >= 1):
        raise place.wrong(
            f"the shares {told} add up to {whole:.6g}. Each must be above 0, and something left for the control."
        )
    return given


def _holdouts(top: Entries) -> tuple[Held, ...]:
    """The holdouts that the test begins under."""
    if "holdouts" not in top:
        return ()
    place, node = top["holdouts"]
    if not isinstance(node, yaml.MappingNode):
        raise place.wrong("give shares by name, for example {year 2026: 5%}.")
    found = []
    for name, (one, of) in declared.mapping(node, place.path, place.key).items():
        share = declared.part(one, of)
        if not 0 < share < 1:
            raise one.wrong(f"the share {share:g} of a holdout must lie between 0 and 1.")
        with declared.at(one):
            found.append(Held(name=checked_name(name, "holdout"), share=share))
    return tuple(found)


def _planned(top: Entries, test: ABTest) -> int:
    """The units that it takes to find what the plan says."""
    place, node = top["plan"]
    told = declared.parts(place, node, PLAN, EXAMPLES["plan"])
    if "planned_units" in top:
        raise place.wrong("planned_units says how many units already. Keep one of the two.")
    if "lift" not in told:
        raise place.wrong(f"does not say which lift is to be found. Write {EXAMPLES['plan']}.")
    numbers = {name: (declared.count if name == "looks" else declared.part)(*entry) for name, entry in told.items()}
    goal, shares = test.goals[0], {one.share for one in test.treatments}
    if test.inference.value != "frequentist":
        raise place.wrong(f"the inference {test.inference.value} may end at any time, and needs none.")
    if goal.kind is Kind.QUANTILE or ("base_rate" in told) != (goal.kind is Kind.RATE):
        needs = (
            "planned_units"
            if goal.kind is Kind.QUANTILE
            else "base_rate"
            if goal.kind is Kind.RATE
            else "mean and deviation"
        )
        raise place.wrong(f"the goal {goal.name} is a {goal.kind.value}: give {needs}.")
    if max(shares) - min(shares) > 1e-9:
        raise place.wrong("the variants have different shares. Give planned_units (modelyard ab-testing plan-test).")
    with declared.at(place):
        return sizing.sized(
            lift=numbers["lift"],
            base_rate=numbers.get("base_rate"),
            mean=numbers.get("mean"),
            deviation=numbers.get("deviation"),
            share=max(shares),
            treatments=len(test.treatments),
            goals=len(test.goals),
            looks=int(numbers.get("looks", 1)),
            power=numbers.get("power", 0.8),
            confidence_level=0.95,
            correlation=numbers.get("covariate_correlation", 0.0),
            units_per_day=None,
        ).units


def _check_endpoint(top: Entries, test: ABTest) -> None:
    """Invalid for what no endpoint can carry out, at its line."""
    if not test.endpoint:
        if "guard" in top:
            raise top["guard"][0].wrong(
                "it watches the traffic of an endpoint. Add a line endpoint: ..., or leave it out."
            )
        return
    place = top["endpoint"][0]
    with declared.at(place):
        checked_name(test.endpoint, "endpoint")
    odd = {
        "ramp_seconds": test.ramp_seconds > 0,
        "inference": test.adaptive,
        "group_share": test.group_share < 1,
        "holdouts": bool(test.holdouts),
    }
    for key, stands in odd.items():
        if stands:
            raise top[key][0].wrong(
                "leaves units out or moves shares, which no endpoint does. Leave out endpoint, and assign by get_variant."
            )


def _metric_places(top: Entries) -> dict[str, Place]:
    """Where metrics stand, by their names."""
    places: dict[str, Place] = {}
    for place, node in declared.items(*top["metrics"]) if "metrics" in top else ():
        told = declared.mapping(node, place.path, place.key)
        name = told["name"][1].value
        places |= {f"metrics.{name}": place, **{f"metrics.{name}.{key}": one for key, (one, _) in told.items()}}
    return places
