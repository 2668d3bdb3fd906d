"""Pure decisions of the feature store: what a good definition is, what may change, which features a request means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.ids import checked_name
from modelyard.features.values import Feature, FeatureGroup, FeatureType

MEANING = ("feature_type", "source", "ttl")  # what changes the values that a reader gets
MICROS = 1_000_000
TIME = "event_timestamp"


@dataclass(frozen=True, slots=True)
class Layout:
    """Features that are written together, in the order of their packed values."""

    layout_id: int
    entity_type: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One requested feature: what the answer calls it, and its definition."""

    output: str
    feature: Feature

    @property
    def ttl(self) -> int | None:
        """The time to live in microseconds."""
        return None if self.feature.ttl is None else round(self.feature.ttl * MICROS)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All definitions at one moment. `features` holds every version, oldest first, by (entity type, name)."""

    identity: str
    generation: int
    features: Mapping[tuple[str, str], tuple[Feature, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[FeatureGroup, ...]] = field(default_factory=dict)
    layouts: tuple[Layout, ...] = ()

    def feature(self, reference: str, entity_type: str | None = None) -> Feature:
        """The definition that `name`, `entity_type:name` or either with `@version` means."""
        name, _, version = reference.partition("@")
        versions = self._versions(name, entity_type)
        if not version:
            return versions[-1]
        for feature in versions:
            if str(feature.version) == version.removeprefix("v"):
                return feature
        raise NotFound(
            f"{versions[-1].reference} has no version {version!r}. It has versions 1 to {versions[-1].version}."
        )

    def check_kind(self, entity_type: str) -> None:
        """NotFound, with the nearest known ones, for an entity type that has no features."""
        known = sorted({kind for kind, _ in self.features})
        if entity_type not in known:
            raise NotFound(f"There is no entity type {entity_type!r}. {nearest(entity_type, known)}")

    def columns(self, requested: Sequence[str], entity_type: str | None = None) -> tuple[Column, ...]:
        """The features that a request means, groups spelt out. An answer's column is called as it was asked for."""
        if isinstance(requested, str):
            raise Invalid(f"Features are a list of names. Pass [{requested!r}].")
        found: dict[str, Column] = {}
        for text in requested:
            for output, reference in self._members(text):
                feature = self.feature(reference, entity_type)
                if "@" in reference:
                    self._refuse_changed(feature)
                found[output] = Column(output, feature)
        if not found:
            raise Invalid("No features were asked for. Pass a list of feature or group names.")
        return tuple(found.values())

    def layouts_with(self, feature: Feature) -> list[Layout]:
        """The layouts in which a feature is written."""
        return [x for x in self.layouts if x.entity_type == feature.entity_type and feature.name in x.features]

    def _members(self, text: str) -> list[tuple[str, str]]:
        if text in self.groups and not any(name == text for _, name in self.features):
            group = self.groups[text][-1]
            return [(name, f"{group.entity_type}:{name}") for name in group.features]
        return [(text.partition("@")[0], text)]

    def _versions(self, name: str, entity_type: str | None) -> tuple[Feature, ...]:
        if ":" in name:
            kind, _, bare = name.partition(":")
            found = [(kind, bare)] if (kind, bare) in self.features else []
        else:
            found = [key for key in self.features if key[1] == name and entity_type in (None, key[0])]
        if not found:
            known = [key[1] if ":" not in name else ":".join(key) for key in self.features]
            raise NotFound(f"There is no feature {name!r}. {nearest(name, sorted({*known, *self.groups}))}")
        if len(found) > 1:
            raise Invalid(
                f"Several kinds of entity have a feature {name!r}. Ask for {' or '.join(f'{k}:{n}' for k, n in found)}."
            )
        return self.features[found[0]]

    def _refuse_changed(self, feature: Feature) -> None:
        current = self.features[feature.entity_type, feature.name][-1]
        changed = changes(feature, current, MEANING)
        if changed:
            raise Conflict(
                f"{feature.reference} is at version {current.version}, and since version {feature.version} {changed}. "
                f"Retrain on the present definition, or ask for {feature.name} to accept it."
            )


def changes(old: Feature, new: Feature, names: Iterable[str]) -> str:
    """The named fields that differ, in words; empty if none does.

    >>> a = Feature(name="n", entity_type="e", feature_type=FeatureType.INT)
    >>> changes(a, replace(a, ttl=5.0), MEANING)
    'its ttl went from None to 5.0'
    """
    told = [
        f"its {name} went from {_shown(old, name)} to {_shown(new, name)}"
        for name in names
        if getattr(old, name) != getattr(new, name)
    ]
    return " and ".join(told)


def _shown(feature: Feature, name: str) -> str:
    value = getattr(feature, name)
    return value.value if isinstance(value, FeatureType) else repr(value)


def feature_type_of(kind: FeatureType | str) -> FeatureType:
    """The feature type of a name; Invalid with the nearest known ones for anything else."""
    known = [member.value for member in FeatureType]
    if isinstance(kind, FeatureType) or kind in known:
        return FeatureType(kind)
    raise Invalid(f"{kind!r} is no feature type. {nearest(str(kind), known)}")


def checked_feature(feature: Feature) -> Feature:
    """The definition itself if it is a good one; Invalid names the field at fault."""
    checked_name(feature.entity_type, "entity type")
    checked_name(feature.name, "feature")
    if "@" in feature.name or feature.name in (feature.entity_type, TIME):
        raise Invalid(
            f"{feature.name!r} is no feature name here: @ stands before a version, and the entity type and "
            "event_timestamp name other columns. Choose another name."
        )
    if not isinstance(feature.feature_type, FeatureType):
        raise Invalid(f"{feature.feature_type!r} is no FeatureType. Pass FeatureType.FLOAT, say.")
    for name in ("description", "source", "owner"):
        if not isinstance(getattr(feature, name), str):
            raise Invalid(f"The {name} of {feature.reference} is {getattr(feature, name)!r:.80}. Pass text.")
    ttl, tags = feature.ttl, feature.tags
    number = isinstance(ttl, (int, float)) and not isinstance(ttl, bool)
    if ttl is not None and not (number and math.isfinite(ttl) and ttl >= 0):
        raise Invalid(f"The ttl of {feature.reference} is {ttl!r:.80}. Pass seconds from 0 up, or None for no limit.")
    if not isinstance(tags, Mapping) or not all(isinstance(text, str) for pair in tags.items() for text in pair):
        raise Invalid(f"The tags of {feature.reference} are {tags!r:.80}. Pass texts by name, as {{'team': 'fraud'}}.")
    return replace(feature, ttl=None if feature.ttl is None else float(feature.ttl), tags=dict(feature.tags))


def admitted(feature: Feature, catalogue: Catalogue) -> Feature | None:
    """The definition to store for a new feature, None if exactly it stands already; Conflict if another does."""
    checked_feature(feature)
    known = catalogue.features.get((feature.entity_type, feature.name))
    if known:
        if replace(known[-1], version=feature.version) == checked_feature(feature):
            return None
        raise Conflict(
            f"{feature.reference} is registered already, with another definition (version {known[-1].version}). "
            "Use update_feature to change it, or choose another name."
        )
    for entity_type, name in catalogue.features:
        if entity_type == feature.entity_type and name.lower() == feature.name.lower():
            raise Conflict(f"{entity_type} has a feature {name!r} already, which differs only in case. Use that one.")
    if feature.name in catalogue.groups:
        raise Conflict(f"A group is called {feature.name!r} already. Choose another name for the feature.")
    return replace(checked_feature(feature), version=1)


def updated(old: Feature, new: Feature, *, has_values: bool) -> Feature | None:
    """The next version of a definition, None if nothing changes; Conflict if stored values would change their type."""
    new = replace(checked_feature(new), version=old.version)
    if new == old:
        return None
    if has_values and new.feature_type is not old.feature_type:
        raise Conflict(
            f"{old.reference} has stored {old.feature_type.value} values, which cannot become {new.feature_type.value}. "
            "Register a new feature under another name."
        )
    return replace(new, version=old.version + 1)


def next_group(group: FeatureGroup, catalogue: Catalogue) -> FeatureGroup | None:
    """The group to store, None if exactly it stands already; NotFound or Invalid for features it cannot have."""
    checked_name(group.name, "group")
    if any(name == group.name for _, name in catalogue.features):
        raise Conflict(f"A feature is called {group.name!r} already. Choose another name for the group.")
    if not group.features:
        raise Invalid(f"Group {group.name!r} has no features. Name at least one.")
    names = tuple(dict.fromkeys(catalogue.feature(name, group.entity_type).name for name in group.features))
    old = catalogue.groups.get(group.name, ())
    group = replace(group, features=names, version=len(old) or 1)
    if old and old[-1] == group:
        return None
    return replace(group, version=len(old) + 1)


def check_spine(present: list[str], columns: Sequence[Column]) -> None:
    """Invalid or Conflict where a table cannot be given the columns."""
    for name in (TIME, *sorted({column.feature.entity_type for column in columns})):
        if name not in present:
            raise Invalid(f"The spine has no column {name!r}. {nearest(name, present)}")
    for column in columns:
        if column.output in present:
            raise Conflict(f"The spine has a column {column.output!r} already. Rename or drop it.")


def runs(segments: Sequence[tuple[int, int, frozenset[str]]], largest: int) -> list[list[int]]:
    """Which segments can be merged without changing which of two equal rows was written last.

    `segments` are (rows, layout, features) in writing order; a run is a list of at least two positions of the same
    layout with no other layout's write of a shared feature between them, and at most `largest` rows together.

    >>> a, b = frozenset("a"), frozenset("ab")
    >>> runs([(1, 1, a), (1, 1, a), (1, 2, b), (1, 1, a)], 10)
    [[0, 1]]
    """
    open_runs: dict[int, list[int]] = {}
    done: list[list[int]] = []
    total: dict[int, int] = {}
    for position, (rows, layout, features) in enumerate(segments):
        for other, run in list(open_runs.items()):
            if other != layout and features & segments[run[0]][2]:
                done.append(open_runs.pop(other))
        if layout in open_runs and total[layout] + rows > largest:
            done.append(open_runs.pop(layout))
        total[layout] = rows + (total[layout] if layout in open_runs else 0)
        open_runs.setdefault(layout, []).append(position)
    return [run for run in [*done, *open_runs.values()] if len(run) > 1]
