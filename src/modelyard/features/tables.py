"""What callers hand in, as batches: tables and single values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid, nearest
from modelyard.features.columns import Masked, entity_key, entity_keys, instant, masked, typed
from modelyard.features.rules import Catalogue
from modelyard.features.segments import Batch
from modelyard.features.values import Feature, FeatureValue


def batch_of_frame(
    frame: Any,
    catalogue: Catalogue,
    *,
    features: Sequence[str] | None,
    entity_type: str | None,
    entity_column: str | None,
    timestamp_column: str,
    created_column: str | None,
) -> list[Batch]:
    """The one batch that a table holds."""
    tables = plugins.load("tables", "pandas")
    table = tables.frame(frame)
    if not len(table):
        return []
    present = [str(name) for name in table.columns]
    if len(set(present)) < len(present):
        twice = sorted({name for name in present if present.count(name) > 1})
        raise Invalid(f"The table has two columns called {twice[0]!r}. Rename or drop one.")
    table = table.set_axis(present, axis=1)
    if features is None and entity_type is None and entity_column is None:
        entity_type = _kind_among(present, catalogue)
    if entity_type is not None:
        catalogue.check_kind(entity_type)
    others = {timestamp_column, created_column, entity_column or entity_type}
    _check_present(present, [timestamp_column, created_column, entity_column or entity_type])
    names = features if features is not None else [name for name in present if name not in others]
    wanted = _one_kind([catalogue.feature(name, entity_type) for name in names])
    entity_column = entity_column or wanted[0].entity_type
    _check_present(present, [entity_column, *(x.name for x in wanted)])
    entities = entity_keys(tables.masked(table, entity_column))
    _refuse_null(np.array([key is None for key in entities]), entity_column)
    events = tables.instants(table, timestamp_column)
    _refuse_null(np.ma.getmaskarray(events), timestamp_column)
    moments = np.ma.getdata(events)
    arrived = tables.instants(table, created_column) if created_column else events
    return [
        Batch(
            entity_type=wanted[0].entity_type,
            features=wanted,
            entities=entities,
            events=moments,
            created=np.where(np.ma.getmaskarray(arrived), moments, np.ma.getdata(arrived)),
            columns={feature.name: typed(tables.masked(table, feature.name), feature) for feature in wanted},
        )
    ]


def _check_present(present: list[str], names: Sequence[str | None]) -> None:
    for name in filter(None, names):
        if name not in present:
            raise Invalid(f"The table has no column {name!r}. {nearest(name, present)}")


def batches_of_values(values: Sequence[FeatureValue], catalogue: Catalogue) -> list[Batch]:
    """Values as wide rows: those of one entity and time together, one batch for each set of features that occurs."""
    known: dict[str, Feature] = {}
    rows: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    for value in values:
        feature = known.get(value.feature) or known.setdefault(value.feature, catalogue.feature(value.feature))
        key = entity_key(value.entity_id)
        if key is None:
            raise Invalid(f"A value of {feature.reference} has no entity id. Leave it out, or name its entity.")
        event = instant(value.timestamp)
        created = event if value.created_at is None else instant(value.created_at)
        row = rows.setdefault((feature.entity_type, key, event, created), {})
        row[feature.name] = value.value
    sets: dict[tuple[str, tuple[str, ...]], list[tuple[tuple[str, str, int, int], dict[str, Any]]]] = {}
    for at, row in rows.items():
        sets.setdefault((at[0], tuple(sorted(row))), []).append((at, row))
    return [_batch(kind, names, held, catalogue) for (kind, names), held in sets.items()]


def _batch(kind: str, names: tuple[str, ...], rows: list[Any], catalogue: Catalogue) -> Batch:
    features = tuple(catalogue.feature(f"{kind}:{name}") for name in names)
    columns: dict[str, Masked] = {x.name: typed(masked(row[x.name] for _, row in rows), x) for x in features}
    return Batch(
        entity_type=kind,
        features=features,
        entities=np.array([at[1] for at, _ in rows], dtype=object),
        events=np.array([at[2] for at, _ in rows], dtype=np.int64),
        created=np.array([at[3] for at, _ in rows], dtype=np.int64),
        columns=columns,
    )


def _kind_among(present: list[str], catalogue: Catalogue) -> str:
    """The one entity type whose name is a column."""
    known = sorted({kind for kind, _ in catalogue.features})
    found = [kind for kind in known if kind in present]
    if len(found) != 1:
        raise Invalid(
            f"The table must have one column named as an entity type, and has {len(found)}. "
            f"Pass entity_type= and entity_column=. {nearest('', known)}"
        )
    return found[0]


def _one_kind(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """The features in the order of their names; Invalid unless all belong to one kind of entity."""
    if not features:
        raise Invalid("The table has no feature columns. Name them: features=[...].")
    kinds = sorted({feature.entity_type for feature in features})
    if len(kinds) > 1:
        raise Invalid(f"One table holds one kind of entity, and these features belong to {' and '.join(kinds)}.")
    return tuple(sorted({feature.name: feature for feature in features}.values(), key=lambda feature: feature.name))


def _refuse_null(missing: np.ndarray, column: str) -> None:
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise Invalid(f"Column {column!r} is null in row {row} (the first row is 0). Drop such rows, or fill them in.")
