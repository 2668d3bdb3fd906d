"""Search: versions and models by filter and by words, in any order, page by page. Nothing is loaded but the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from modelyard.core.area import Area
from modelyard.core.canonical import dumps
from modelyard.core.filters import Bound, Filter, Order, parse, parse_order
from modelyard.core.models import ModelVersion, RegisteredModel
from modelyard.core.operations import operation
from modelyard.core.pages import Page, page_token, read_token
from modelyard.core.ports import Connection, Row
from modelyard.registry import checks, queries, store, store_models
from modelyard.registry.queries import Sorting

T = TypeVar("T")


class Search(Area):
    """Answers questions over all versions and models."""

    @operation("GET", "/search/versions", needs="registry.read")
    def search_versions(
        self,
        filter: str = "",
        order_by: list[str] | None = None,
        text: str = "",
        *,
        page_token: str = "",
        limit: int = 100,
    ) -> Page[ModelVersion]:
        """A page of the versions that a filter and all words of a text hold for, by name and version unless ordered.

        Fields: name, version (as SemVer orders), number, stage, framework, project, created_by, trained_by, run_id,
        source, digest, size, description, changelog, parent, training_data, code_version, repository, commit,
        data_digest, lock_digest, created_at and updated_at (ISO text or milliseconds), alias, tag (`label` or
        `key=value`), metrics.KEY, parameters.KEY, tags.KEY. A word of `text` finds words that begin with it in the
        description and tags of a version or in the name, description and tags of its model.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> for version, auc in (("v1.0.0", 0.75), ("v2.0.0", 0.8)):
        ...     _ = registry.register_model(
        ...         "fraud", version, model_file, "lightgbm", "ana@example.com", metrics={"auc": auc}
        ...     )
        >>> [one.version for one in registry.search_versions("metrics.auc > 0.7", ["metrics.auc DESC"]).items]
        ['v2.0.0', 'v1.0.0']
        """
        orders = [parse_order(one) for one in order_by or ()]
        return self.find_versions(parse(filter), orders, text=text, token=page_token, limit=limit)

    @operation("GET", "/search/models", needs="registry.read")
    def search_models(
        self,
        filter: str = "",
        order_by: list[str] | None = None,
        text: str = "",
        *,
        page_token: str = "",
        limit: int = 100,
    ) -> Page[RegisteredModel]:
        """A page of the models that a filter and all words of a text hold for, by name unless ordered.

        Fields: name, owner, project, licence, description, created_at, updated_at, alias, tag, tags.KEY. A word of
        `text` finds words that begin with it in the name, description and tags.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.create_model("fraud_detector", "ana@example.com", tags=["team=risk"])
        >>> [one.name for one in registry.search_models("tags.team = 'risk'", text="detect").items]
        ['fraud_detector']
        """
        orders = [parse_order(one) for one in order_by or ()]
        return self.find_models(parse(filter), orders, text=text, token=page_token, limit=limit)

    def newest_in_stages(self, names: Sequence[str]) -> dict[str, list[ModelVersion]]:
        """For each of the models, the version with the highest number in each stage that has one."""
        told: dict[str, list[ModelVersion]] = {name: [] for name in names}
        if told:
            with self.store.reading() as rows:
                for version in store.newest_in_stages(rows, list(told)):
                    told[version.name].append(version)
        return told

    def find_versions(
        self, filter: Filter | None, orders: Sequence[Order] = (), *, text: str = "", token: str = "", limit: int = 100
    ) -> Page[ModelVersion]:
        """`search_versions` with a filter's tree and orderings that are read already."""
        bound = Bound()
        where = queries.version_where(filter, bound, checks.checked_text(text, "text"))
        keys = queries.version_sorting(list(orders), bound)
        asked = _Asked(table="model_versions v", where=where, keys=keys, bound=bound, text=_told(filter, orders, text))
        with self.store.reading() as rows:
            return _page(rows, asked, store.versions_of, token, checks.checked_limit(limit))

    def find_models(
        self, filter: Filter | None, orders: Sequence[Order] = (), *, text: str = "", token: str = "", limit: int = 100
    ) -> Page[RegisteredModel]:
        """`search_models` with a filter's tree and orderings that are read already."""
        bound = Bound()
        where = queries.model_where(filter, bound, checks.checked_text(text, "text"))
        keys = queries.model_sorting(list(orders))
        asked = _Asked(
            table="registered_models r", where=where, keys=keys, bound=bound, text=_told(filter, orders, text)
        )
        with self.store.reading() as rows:
            return _page(rows, asked, store_models.models_of, token, checks.checked_limit(limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A query before its page is known; `text` tells it from others."""

    table: str
    where: str
    keys: list[Sorting]
    bound: Bound
    text: str


def _page(
    rows: Connection, asked: _Asked, values_of: Callable[[Connection, Sequence[Row]], list[T]], token: str, limit: int
) -> Page[T]:
    where, keys, query = asked.where, asked.keys, f"{asked.table} {asked.text}"
    if token:
        where += f" AND {queries.behind(keys, read_token(token, query), asked.bound)}"
    short = asked.table.rpartition(" ")[2]
    selected = ", ".join([f"{short}.*", *(f"{key.sql} AS order_{number}" for number, key in enumerate(keys))])
    order = ", ".join(f"{key.sql} {'DESC' if key.descending else 'ASC'}" for key in keys)
    joins = "".join(key.joins for key in keys)
    sql = f"SELECT {selected} FROM {asked.table}{joins} WHERE {where} ORDER BY {order} LIMIT :limit"
    found = rows.all(sql, **asked.bound.values, limit=limit + 1)
    items = tuple(values_of(rows, found[:limit]))
    if len(found) <= limit:
        return Page(items=items)
    last = [found[limit - 1][f"order_{number}"] for number in range(len(keys))]
    return Page(items=items, next_page_token=page_token(last, query))


def _told(filter: Filter | None, orders: Sequence[Order], text: str) -> str:
    return dumps([filter, orders, text])
