"""Registered models: create, rename, describe, tag, search, delete."""

from __future__ import annotations

import mlflow


def create_and_read(scene):
    client, name = scene.client, scene.unique("model")
    scene.tell(
        "created", client.create_registered_model(name, tags={"team": "fraud", "tier": 1}, description="what it is")
    )
    scene.tell("read", client.get_registered_model(name))
    bare = client.create_registered_model(scene.unique("bare"))
    scene.tell("bare", bare)


def refused(scene):
    client, name = scene.client, scene.unique("model")
    client.create_registered_model(name)
    scene.fails("taken", client.create_registered_model, name)
    scene.fails("unknown", client.get_registered_model, scene.unique("none"))
    for place, bad in enumerate(("", "  ", "a/b", "a:b", "..", "a//b", "./a")):
        scene.fails(f"name {place}", client.create_registered_model, bad)
    scene.fails("long key", client.create_registered_model, scene.unique("k"), tags={"k" * 251: "v"})
    scene.fails("long value", client.set_registered_model_tag, name, "k", "v" * 100_001)
    scene.fails("bad key", client.set_registered_model_tag, name, "a#b", "v")
    scene.fails("update unknown", client.update_registered_model, scene.unique("none"), "d")
    scene.fails("delete unknown", client.delete_registered_model, scene.unique("none"))
    scene.fails("tag unknown", client.set_registered_model_tag, scene.unique("none"), "a", "b")
    scene.fails("versions of unknown", client.get_latest_versions, scene.unique("none"))


def odd_names(scene):
    for place, name in enumerate(("with space", "dotted.name", "under_score-dash", "plus+", "a" * 90)):
        made = scene.client.create_registered_model(scene.unique(name))
        scene.tell(f"name {place}", scene.client.get_registered_model(made.name).name)


def describe(scene):
    client, name = scene.client, scene.unique("model")
    before = client.create_registered_model(name, description="one")
    after = client.update_registered_model(name, "two")
    scene.tell("described", after)
    scene.tell("later", after.last_updated_timestamp >= before.last_updated_timestamp)
    scene.tell("none", client.update_registered_model(name, "").description)


def tags(scene):
    client, name = scene.client, scene.unique("model")
    client.create_registered_model(name)
    client.set_registered_model_tag(name, "a", "1")
    client.set_registered_model_tag(name, "a", "2")
    client.set_registered_model_tag(name, "b", "")
    scene.tell("set", client.get_registered_model(name).tags)
    client.delete_registered_model_tag(name, "a")
    client.delete_registered_model_tag(name, "nothing")
    scene.tell("deleted", client.get_registered_model(name).tags)


def rename(scene):
    client, old, new = scene.client, scene.unique("old"), scene.unique("new")
    client.create_registered_model(old, tags={"a": "1"})
    client.create_model_version(old, "s3://bucket/model")
    client.set_registered_model_alias(old, "challenger", "1")
    scene.tell("renamed", client.rename_registered_model(old, new))
    scene.tell("its version", client.get_model_version(new, "1"))
    scene.tell("its alias", client.get_model_version_by_alias(new, "challenger").version)
    scene.fails("old name", client.get_registered_model, old)
    client.create_registered_model(old)
    scene.fails_by_code("taken", client.rename_registered_model, new, old)
    scene.fails("empty", client.rename_registered_model, new, "")
    scene.fails("unknown", client.rename_registered_model, scene.unique("none"), scene.unique("x"))


def delete(scene):
    client, name = scene.client, scene.unique("model")
    client.create_registered_model(name)
    client.create_model_version(name, "s3://bucket/model")
    client.delete_registered_model(name)
    scene.fails("gone", client.get_registered_model, name)
    scene.fails("its version", client.get_model_version, name, "1")
    client.create_registered_model(name)
    scene.tell("from 1 again", client.create_model_version(name, "s3://bucket/model").version)


def search(scene):
    client = scene.client
    for name, team in (("alpha", "x"), ("Beta", "y"), ("gamma", "x"), ("delta", None)):
        client.create_registered_model(
            scene.unique(name), tags={"scene": "search-models"} | ({"team": team} if team else {})
        )
    client.create_model_version(scene.unique("gamma"), "s3://bucket/g")
    mine = "tags.scene = 'search-models'"
    for text in (
        "tags.team = 'x'",
        "tags.team != 'x'",
        "name LIKE 'registered-models-search-%a'",
        "name ILIKE '%BETA'",
        "name LIKE '%BETA'",
        "name = 'registered-models-search-alpha'",
        "name != 'registered-models-search-alpha'",
        "name IN ('registered-models-search-alpha', 'registered-models-search-delta')",
        "tag.team ILIKE 'X'",
        "tags.`team` = 'y'",
        "name NOT IN ('registered-models-search-alpha')",
    ):
        found = client.search_registered_models(f"{mine} AND {text}")
        scene.tell(text, [model.name for model in found])
    for keys in (["name DESC"], ["name ASC"], ["name"]):
        scene.tell(str(keys), [model.name for model in client.search_registered_models(mine, order_by=keys)])
    first = client.search_registered_models(mine, max_results=3)
    second = client.search_registered_models(mine, max_results=3, page_token=first.token)
    scene.tell("pages", [[model.name for model in first], [model.name for model in second], bool(second.token)])
    scene.tell(
        "with versions",
        [model.latest_versions for model in client.search_registered_models("name = 'registered-models-search-gamma'")],
    )
    for text in (
        "size > 3",
        "run_id = 'x'",
        "tags.team > 'x'",
        "name",
        "name = x OR name = y",
        "nonsense.a = 'b'",
        "name = 3",
    ):
        scene.fails_by_code(text, client.search_registered_models, text)
    scene.fails_by_code("order", client.search_registered_models, order_by=["size"])
    scene.fails("too many", client.search_registered_models, max_results=1_001)
    scene.fails("token", client.search_registered_models, page_token="bogus")


def fluent(scene):
    mlflow.set_experiment(scene.unique("fluent"))
    scene.client.create_registered_model(scene.unique("fluent"), tags={"scene": "fluent-models"})
    found = mlflow.search_registered_models(filter_string="tags.scene = 'fluent-models'")
    scene.tell("found", [model.name for model in found])
