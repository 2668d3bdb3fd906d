"""Stages and aliases of models whose policy leaves them open."""

from __future__ import annotations


def _model(scene, versions=3):
    """A model with versions of content, since what has none is never promoted."""
    client, name = scene.client, scene.client.create_registered_model(scene.unique("open")).name
    run = client.create_run(scene.experiment(), run_name="r").info
    for place in range(versions):
        client.log_text(run.run_id, f"weight: {place}\n", f"model-{place}/weights.yaml")
        client.create_model_version(name, f"{run.artifact_uri}/model-{place}", run.run_id)
    return name


def transition(scene):
    client, name = scene.client, _model(scene)
    for version, stage in (
        ("1", "Staging"),
        ("2", "production"),
        ("3", "Production"),
        ("2", "Archived"),
        ("1", "None"),
        ("2", "Staging"),
    ):
        scene.tell(f"{version} {stage}", client.transition_model_version_stage(name, version, stage))
    scene.tell("same again", client.transition_model_version_stage(name, "3", "Production").current_stage)
    scene.tell("latest", [[one.version, one.current_stage] for one in client.get_latest_versions(name)])
    scene.tell("in production", [one.version for one in client.get_latest_versions(name, ["Production"])])
    scene.tell("in two", sorted(one.version for one in client.get_latest_versions(name, ["production", "Staging"])))
    scene.tell("in none", client.get_latest_versions(name, ["Archived"]))


def archive_the_others(scene):
    client, name = scene.client, _model(scene)
    client.transition_model_version_stage(name, "1", "Production")
    client.transition_model_version_stage(name, "2", "Production")
    client.transition_model_version_stage(name, "3", "Production", archive_existing_versions=True)
    scene.tell(
        "stages",
        [
            [one.version, one.current_stage]
            for one in client.search_model_versions(f"name = '{name}'", order_by=["version_number"])
        ],
    )
    scene.fails("archiving into archived", client.transition_model_version_stage, name, "3", "Archived", True)


def refused_stages(scene):
    client, name = scene.client, _model(scene, 1)
    scene.fails("unknown stage", client.transition_model_version_stage, name, "1", "Producton")
    scene.fails("unknown version", client.transition_model_version_stage, name, "9", "Staging")
    scene.fails("unknown model", client.transition_model_version_stage, scene.unique("none"), "1", "Staging")
    scene.fails("unknown stage asked for", client.get_latest_versions, name, ["Nowhere"])


def aliases(scene):
    client, name = scene.client, _model(scene)
    client.set_registered_model_alias(name, "challenger", "1")
    client.set_registered_model_alias(name, "shadow", "1")
    scene.tell("version", client.get_model_version(name, "1").aliases)
    scene.tell("model", client.get_registered_model(name).aliases)
    scene.tell("by alias", client.get_model_version_by_alias(name, "challenger"))
    client.set_registered_model_alias(name, "challenger", 2)
    scene.tell("moved", [client.get_model_version(name, str(n)).aliases for n in (1, 2)])
    client.delete_registered_model_alias(name, "challenger")
    client.delete_registered_model_alias(name, "never-there")
    scene.fails("deleted", client.get_model_version_by_alias, name, "challenger")
    scene.tell("left", client.get_registered_model(name).aliases)
    scene.fails("unknown version", client.set_registered_model_alias, name, "x", "9")
    scene.fails("unknown model", client.set_registered_model_alias, scene.unique("none"), "x", "1")
    for place, alias in enumerate(("", "a b", "v1", "V22", "latest", "Latest", "a/b", "a" * 256)):
        scene.fails(f"alias {place}", client.set_registered_model_alias, name, alias, "1")
    for alias in ("a", "A_b-9", "version"):
        client.set_registered_model_alias(name, alias, "3")
    scene.tell("accepted", sorted(client.get_model_version(name, "3").aliases))


def champion(scene):
    client, name = scene.client, _model(scene)
    client.transition_model_version_stage(name, "2", "Production")
    client.set_registered_model_alias(name, "champion", "2")
    scene.tell("champion", client.get_model_version_by_alias(name, "champion").version)
    scene.tell("uri", client.get_model_version_download_uri(name, "2"))
