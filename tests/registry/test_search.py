"""Searches answer as a plain reading of the filter does, on both databases, page by page."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.filters import Condition, Filter, parse, parse_order
from modelyard.core.instants import FixedClock, micros
from modelyard.core.models import ModelStage, ModelVersion, RegisteredModel
from modelyard.core.refs import SemVer
from modelyard.core.work import Store
from modelyard.registry import ModelRegistry

ANA = "ana@example.com"
KEYS = ["auc", "f1", "ä b"]
WORDS = ["Fraud", "fraud", "Größer", "a_b", "50%", "x\\y", "it's", ""]
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def _fill(registry: ModelRegistry, clock: FixedClock) -> tuple[list[ModelVersion], list[RegisteredModel]]:
    """Forty versions of four models, the same on every run."""
    dice = random.Random(7)
    for number in range(40):
        clock.advance(dice.choice([0, 0.0004, 1]))
        name = f"model{dice.randint(0, 3)}"
        text = dice.choice(WORDS)
        parameters = {key: dice.choice([1, 2.5, "2.5", text, True, [1, 2]]) for key in KEYS if dice.random() < 0.5}
        registry.register_version(
            ModelVersion(
                name=name,
                version=f"{dice.choice(['', 'v'])}{dice.randint(0, 2)}.{number}.0{dice.choice(['', '-rc.1'])}",
                framework=dice.choice(["onnx", "ONNX", "lightgbm"]),
                stage=ModelStage.DEVELOPMENT,
                digest="",
                created_by=dice.choice([ANA, "max@example.com"]),
                created_at=BEGIN,
                updated_at=BEGIN,
                description=text,
                size=dice.randint(0, 3),
                metrics={key: dice.choice([0.1, 0.5, -1.0, 1e300]) for key in KEYS if dice.random() < 0.6},
                parameters=parameters,
                tags=tuple(
                    key + dice.choice(["", "=", "=" + text, "=" + "long" * 60]) for key in KEYS if dice.random() < 0.5
                ),
            )
        )
    with registry.store.work() as work:
        for number, row in enumerate(
            work.rows.all("SELECT name, canonical FROM model_versions ORDER BY name, canonical")
        ):
            stage = list(ModelStage)[number % 4].value
            work.rows.run(
                "UPDATE model_versions SET stage = :stage WHERE name = :name AND canonical = :canonical",
                **row,
                stage=stage,
            )
    registry.update_model("model1", ANA, owner="max@example.com", tags=["team=risk", "core"], licence="MIT")
    registry.update_model("model2", ANA, description="Größer fraud", project="other", tags=["team=Risk"])
    versions = registry.list_models()
    for version in versions[::7]:
        registry.set_alias(version.name, "challenger", version.version, user=ANA)
    return registry.list_models(), [registry.get_registered_model(f"model{number}") for number in range(4)]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ModelRegistry, list[ModelVersion], list[RegisteredModel]]]:
    clock = FixedClock(BEGIN)
    folder = tmp_path_factory.mktemp("search")
    if request.param == "sqlite":
        registry = ModelRegistry(folder, clock=clock)
    else:
        server = request.getfixturevalue("postgres_server")
        registry = ModelRegistry(Store.at(server.url(server.new_database()), files=folder, clock=clock))
    yield registry, *_fill(registry, clock)
    registry.close()


def holds(filter: Filter | None, about: Callable[[Condition], bool]) -> bool:
    """What a tree means: two-valued logic over comparisons."""
    if filter is None:
        return True
    if isinstance(filter, Condition):
        return about(filter)
    parts = [holds(part, about) for part in filter.parts]
    return {"and": all(parts), "or": any(parts), "not": not parts[0]}[filter.joined]


def compares(value: object, condition: Condition) -> bool:
    """What a comparison with a value means; None is what is not there."""
    operator, wanted = condition.comparator, condition.value
    if operator in ("IS NULL", "IS NOT NULL"):
        return (value is None) == (operator == "IS NULL")
    if value is None:
        return False
    if operator in ("IN", "NOT IN"):
        return (value in wanted) == (operator == "IN")  # type: ignore[operator]
    if operator in ("LIKE", "ILIKE"):
        text, pattern = str(value), str(wanted)
        if operator == "ILIKE":
            text, pattern = _lower(text), _lower(pattern)
        expression = "".join({"%": ".*", "_": "."}.get(sign, re.escape(sign)) for sign in pattern)
        return re.fullmatch(expression, text, re.DOTALL) is not None
    one, two = (value, wanted) if not isinstance(value, str) else (value.encode(), str(wanted).encode())
    return {"=": one == two, "!=": one != two, "<": one < two, "<=": one <= two, ">": one > two, ">=": one >= two}[  # type: ignore[operator]
        operator
    ]


def _lower(text: str) -> str:
    return "".join(sign.lower() if sign in string.ascii_uppercase else sign for sign in text)


def _entries(version: ModelVersion | RegisteredModel) -> dict[str, str | None]:
    found = {}
    for tag in version.tags:
        key, equals, value = tag.partition("=")
        found[key] = value if equals else None
    return found


def version_about(version: ModelVersion) -> Callable[[Condition], bool]:
    def about(condition: Condition) -> bool:
        field, wanted = condition.field, condition.value
        if field.kind == "metrics":
            return compares(version.metrics.get(field.key), condition)
        if field.kind == "params":
            value = version.parameters.get(field.key)
            if value is None or condition.comparator in ("IS NULL", "IS NOT NULL"):
                return compares(value, condition)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if isinstance(wanted, float):
                return is_number and compares(float(value), condition)
            return compares(value if isinstance(value, str) else dumps(value), condition)
        if field.kind == "tags":
            return _tags_about(version, condition)
        return _plain_about(version, condition)

    return about


def _tags_about(thing: ModelVersion | RegisteredModel, condition: Condition) -> bool:
    tags = _entries(thing)
    if condition.comparator in ("IS NULL", "IS NOT NULL"):
        return (condition.field.key not in tags) == (condition.comparator == "IS NULL")
    return compares(tags.get(condition.field.key), condition)


def _many(values: tuple[str, ...], condition: Condition) -> bool:
    if condition.comparator in ("IS NULL", "IS NOT NULL"):
        return (not values) == (condition.comparator == "IS NULL")
    negative = {"!=": "=", "NOT IN": "IN"}.get(condition.comparator)
    if negative is not None:
        return not any(compares(value, replace(condition, comparator=negative)) for value in values)  # type: ignore[arg-type]
    return any(compares(value, condition) for value in values)


def _plain_about(version: ModelVersion, condition: Condition) -> bool:
    key, wanted = condition.field.key, condition.value
    if key in ("tag", "alias"):
        return _many(version.tags if key == "tag" else version.aliases, condition)
    if key == "version" and condition.comparator not in ("LIKE", "ILIKE"):
        mine = SemVer.parse(version.version)
        if condition.comparator in ("=", "!=", "IN", "NOT IN"):
            texts = [wanted] if isinstance(wanted, str) else list(wanted)  # type: ignore[arg-type]
            same = mine.text.removeprefix("v") in [text.removeprefix("v") for text in texts]
            return same == (condition.comparator in ("=", "IN"))
        theirs = SemVer.parse(str(wanted))
        return {"<": mine < theirs, "<=": mine <= theirs, ">": mine > theirs, ">=": mine >= theirs}[
            condition.comparator
        ]
    if key in ("created_at", "updated_at"):
        return compares(micros(getattr(version, key)) // 1000, condition)
    value = getattr(version, key)
    return compares(value.value if isinstance(value, ModelStage) else value, condition)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


TEXTS = st.sampled_from([*WORDS, "ONNX", "onnx", "2.5", "true", "[1,2]", "long" * 60, "long" * 25, "model1"])
PATTERNS = st.sampled_from(["%raud", "F%", "%ö%", "%Ö%", "a_b", "%\\%", "_____", "ON%", "%0%", "model_", "%"])
COMPARE_TEXT = st.one_of(
    st.builds(lambda o, t: f"{o} {_quoted(t)}", st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), TEXTS),
    st.builds(lambda o, p: f"{o} {_quoted(p)}", st.sampled_from(["LIKE", "ILIKE"]), PATTERNS),
    st.builds(
        lambda o, ts: f"{o} ({', '.join(map(_quoted, ts))})",
        st.sampled_from(["IN", "NOT IN"]),
        st.lists(TEXTS, min_size=1, max_size=3),
    ),
    st.sampled_from(["IS NULL", "IS NOT NULL"]),
)
COMPARE_NUMBER = st.builds(
    lambda o, n: f"{o} {n}",
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.sampled_from(["0.1", "0.5", "1", "2.5", "-1", "1e300", "0", "20"]),
)
VERSION_TEXTS = st.sampled_from(["v1.5.0", "1.20.0-rc.1", "0.0.1", "2.39.0", "1.3.0", "v1.3.0-rc.1"])
STAGES = st.sampled_from([stage.value for stage in ModelStage])
MILLIS = st.sampled_from([str(int((BEGIN + timedelta(seconds=s)).timestamp() * 1000)) for s in (0, 5, 10, 11)])
KEYED = st.sampled_from([f"`{key}`" for key in KEYS])
TAGS = st.sampled_from([key + rest for key in KEYS for rest in ("", "=", "=Fraud", "=" + "long" * 60)])
CONDITIONS = st.one_of(
    st.builds(
        lambda f, c: f"{f} {c}", st.sampled_from(["name", "framework", "description", "created_by"]), COMPARE_TEXT
    ),
    st.builds(lambda f, c: f"{f} {c}", st.sampled_from(["size", "number"]), COMPARE_NUMBER),
    st.builds(lambda k, c: f"metrics.{k} {c}", KEYED, COMPARE_NUMBER | st.sampled_from(["IS NULL", "IS NOT NULL"])),
    st.builds(lambda k, c: f"params.{k} {c}", KEYED, COMPARE_NUMBER | COMPARE_TEXT),
    st.builds(lambda k, c: f"tags.{k} {c}", KEYED, COMPARE_TEXT),
    st.builds(lambda o, t: f"tag {o} {_quoted(t)}", st.sampled_from(["=", "!=", "LIKE"]), TAGS),
    st.builds(lambda ts: f"tag NOT IN ({', '.join(map(_quoted, ts))})", st.lists(TAGS, min_size=1, max_size=3)),
    st.builds(
        lambda o, v: f"version {o} {_quoted(v)}",
        st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "LIKE"]),
        VERSION_TEXTS,
    ),
    st.builds(lambda o, s: f"stage {o} {_quoted(s)}", st.sampled_from(["=", "!="]), STAGES),
    st.sampled_from(["alias IS NULL", "alias = 'challenger'", "alias != 'challenger'", "alias LIKE 'ch%'"]),
    st.builds(
        lambda f, o, m: f"{f} {o} {m}", st.sampled_from(["created_at", "updated_at"]), st.sampled_from("=<>"), MILLIS
    ),
)
JOINED = st.sampled_from([" and ", " or "])
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(lambda parts, word: f"({word.join(parts)})", st.lists(inner, min_size=2, max_size=3), JOINED),
        inner.map(lambda one: f"not {one}"),
    ),
    max_leaves=5,
)
ORDERS = st.lists(
    st.builds(
        lambda field, way: f"{field} {way}",
        st.sampled_from(["name", "version", "number", "size", "framework", "created_at", "metrics.auc", "metrics.f1"]),
        st.sampled_from(["ASC", "DESC"]),
    ),
    max_size=3,
)
MANY = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(text=FILTERS)
def test_a_filter_finds_what_a_plain_reading_of_it_finds(filled, text: str) -> None:
    registry, versions, _ = filled
    found = [(one.name, one.version) for one in registry.search_versions(text, limit=100).items]
    brute = [(one.name, one.version) for one in versions if holds(parse(text), version_about(one))]
    assert found == brute


@settings(MANY, max_examples=100)
@given(text=FILTERS, orders=ORDERS, limit=st.integers(1, 9))
def test_pages_in_any_order_give_each_version_once(filled, text: str, orders: list[str], limit: int) -> None:
    registry, versions, _ = filled
    found: list[ModelVersion] = []
    token, pages = "", 0
    while token or not pages:
        page = registry.search_versions(text, orders, page_token=token, limit=limit)
        found += page.items
        token, pages = page.next_page_token, pages + 1
    brute = [one for one in versions if holds(parse(text), version_about(one))]
    assert sorted(map(_id, found)) == sorted(map(_id, brute))
    assert [_key(one, orders) for one in found] == [
        _key(one, orders) for one in sorted(brute, key=cmp_to_key(_in(orders)))
    ]


def _id(version: ModelVersion) -> tuple[str, str]:
    return version.name, version.version


def _value(version: ModelVersion, field: str) -> object:
    if field.startswith("metrics."):
        return version.metrics.get(field.removeprefix("metrics."))
    return SemVer.parse(version.version).key if field == "version" else getattr(version, field)


def _key(version: ModelVersion, orders: list[str]) -> list[object]:
    return [_value(version, str(parse_order(order).field)) for order in orders]


def _in(orders: list[str]) -> Callable[[ModelVersion, ModelVersion], int]:
    def compare(one: ModelVersion, two: ModelVersion) -> int:
        for order in map(parse_order, orders):
            a, b = _value(one, str(order.field)), _value(two, str(order.field))
            if a == b:
                continue
            if a is None or b is None:
                return 1 if a is None else -1
            return (1 if a > b else -1) * (-1 if order.descending else 1)  # type: ignore[operator]
        return 0

    return compare


MODEL_FILTERS = st.one_of(
    st.builds(
        lambda f, c: f"{f} {c}", st.sampled_from(["name", "owner", "project", "licence", "description"]), COMPARE_TEXT
    ),
    st.builds(lambda c: f"tags.team {c}", COMPARE_TEXT),
    st.sampled_from(
        ["tags.team = 'risk'", "tags.team ILIKE 'RISK'", "tag = 'core'", "tags.core IS NOT NULL", "tag IS NULL"]
    ),
    st.sampled_from(["alias = 'challenger'", "alias IS NULL", "project = 'other'", "licence != ''"]),
)


@settings(MANY, max_examples=80)
@given(one=MODEL_FILTERS, two=MODEL_FILTERS, word=st.sampled_from(["and", "or", "and not"]))
def test_a_filter_over_models_finds_what_a_plain_reading_finds(filled, one: str, two: str, word: str) -> None:
    registry, _, models = filled
    text = f"{one} {word} {two}"

    def about(model: RegisteredModel) -> Callable[[Condition], bool]:
        def inner(condition: Condition) -> bool:
            key = condition.field.key
            if condition.field.kind == "tags":
                return _tags_about(model, condition)
            if key in ("tag", "alias"):
                return _many(model.tags if key == "tag" else tuple(model.aliases), condition)
            return compares(getattr(model, key), condition)

        return inner

    assert list(registry.search_models(text).items) == [m for m in models if holds(parse(text), about(m))]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("fraud", {"model2"}),
        ("FRAU größ", {"model2"}),
        ("frau nothing", set()),
        ("risk", {"model1", "model2"}),
        ("model", {"model0", "model1", "model2", "model3"}),
        ("aud", set()),
    ],
)
def test_words_find_what_has_them_all_or_words_that_begin_so(filled, text: str, names: set[str]) -> None:
    registry, versions, _ = filled
    assert {model.name for model in registry.search_models(text=text).items} == names
    found = registry.search_versions(text=text, limit=100).items
    own = {
        (one.name, one.version)
        for one in versions
        if all(
            any(
                word.startswith(part)
                for word in re.findall(r"[^\W_]+", " ".join([one.description, *one.tags]).casefold())
            )
            for part in text.casefold().split()
        )
    }
    whole = {(one.name, one.version) for one in versions if one.name in names}
    assert own | whole == {(one.name, one.version) for one in found}


@pytest.mark.parametrize(
    ("filter", "hint"),
    [
        ("metrix.auc > 1", "metrics"),
        ("stag = 'x'", "stage"),
        ("stage = 'producton'", "production"),
        ("name > 3", "in quotes"),
        ("size = '3'", "without quotes"),
        ("created_at = 'yesterday'", "2026-01-31"),
        ("version > 'one'", "semantic version"),
        ("metrics.auc = 'high'", "without quotes"),
        ("name = 'a' and", "character"),
    ],
)
def test_a_filter_that_makes_no_sense_is_told_with_what_would(filled, filter: str, hint: str) -> None:
    with pytest.raises(Invalid, match=re.escape(hint)):
        filled[0].search_versions(filter)


def test_a_page_token_belongs_to_its_query(filled) -> None:
    registry = filled[0]
    token = registry.search_versions("size >= 0", limit=3).next_page_token
    for question in ({"filter": "size >= 1"}, {"filter": "size >= 0", "text": "fraud"}, {"order_by": ["size"]}):
        with pytest.raises(Invalid, match="page token"):
            registry.search_versions(**question, page_token=token)
    with pytest.raises(Invalid, match="page token"):
        registry.search_models("name != ''", page_token=token)


def test_values_are_bound_and_never_part_of_a_statement(filled) -> None:
    registry = filled[0]
    for evil in ("'; DROP TABLE model_versions; --", "' OR '1'='1", ":f0", "%(f0)s", "\\", "x" * 9_000):
        assert registry.search_versions(f"name = {_quoted(evil)} or metrics.`{evil.replace('`', '')}` > 0").items == ()
        assert registry.search_models(text=evil).items == () or evil == "\\"


def test_a_deleted_models_words_and_values_are_forgotten(yard: Path) -> None:
    registry = ModelRegistry(yard)
    registry.create_model("fraud", ANA, description="cards")
    registry.set_model_tag("fraud", "team", ANA, value="risk")
    registry.delete_model("fraud", ANA)
    registry.create_model("fraud", ANA)
    assert registry.search_models(text="cards").items == ()
    assert registry.search_models("tags.team = 'risk'").items == ()


class Overheard(Store):
    """A store that keeps the plan of every statement which is read through it."""

    plans: list[str]

    @contextmanager
    def reading(self) -> Iterator[Any]:
        with super().reading() as rows:
            store = self

            class Rows:
                def __getattr__(self, name: str) -> Any:
                    return getattr(rows, name)

                def all(self, sql: str, **values: Any) -> Any:
                    plan = rows.all(f"EXPLAIN QUERY PLAN {sql}", **values)
                    store.plans.append("\n".join(row["detail"] for row in plan))
                    return rows.all(sql, **values)

            yield Rows()


@pytest.mark.parametrize("filter", ["", "name = 'fraud'"])
@pytest.mark.parametrize(
    "orders",
    [
        [],
        ["created_at DESC"],
        ["created_at"],
        ["updated_at DESC"],
        ["updated_at DESC", "name", "number DESC"],  # what MLflow's client asks for
    ],
)
def test_no_page_in_the_order_of_time_or_name_sorts_all_versions(yard: Path, filter: str, orders: list[str]) -> None:
    store = Overheard.at(yard)
    registry = ModelRegistry(store)
    for number in range(30):
        registry.register_version(
            ModelVersion(
                name="fraud", version=f"{number}.0.0", framework="onnx", stage=ModelStage.DEVELOPMENT, digest="",
                created_by=ANA, created_at=BEGIN, updated_at=BEGIN,
            )
        )  # fmt: skip
    store.plans, token, seen = [], "", 0
    while True:
        page = registry.search_versions(filter, orders, limit=10, page_token=token)
        token, seen = page.next_page_token, seen + len(page.items)
        if not token:
            break
    assert seen == 30
    plans = [plan for plan in store.plans if "model_versions" in plan or " v " in plan]
    assert plans
    for plan in plans:
        assert "TEMP B-TREE" not in plan, plan
        assert "USING INDEX" in plan, plan
