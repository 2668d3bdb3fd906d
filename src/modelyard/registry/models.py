"""Registered models: what holds for all versions of one name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelyard.core.area import Area
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict
from modelyard.core.events import EventType
from modelyard.core.models import ModelStage, RegisteredModel
from modelyard.core.operations import operation
from modelyard.core.people import checked_person
from modelyard.core.refs import Resource
from modelyard.registry import checks, rules, store, store_models, store_policies
from modelyard.registry.lookup import found_model, holder, tell_created
from modelyard.registry.moves import remove_version
from modelyard.registry.policy import PolicyStatus


class RegisteredModels(Area):
    """Models by name: description, owner, project, licence, tags."""

    @operation("POST", "/models/{name}", needs="registry.write")
    def create_model(
        self,
        name: str,
        created_by: str,
        *,
        description: str = "",
        tags: list[str] | None = None,
        owner: str = "",
        project: str = "default",
        licence: str = "",
    ) -> RegisteredModel:
        """The new model, without a version yet; Conflict if there is one of that name.

        `owner` is who creates it unless another is given. Registering a version makes its model where it is missing.

        >>> from modelyard.registry import ModelRegistry
        >>> ModelRegistry(folder).create_model("fraud", "ana@example.com", tags=["team=risk"]).tags
        ('team=risk',)
        """
        checked_person(created_by, "created_by")
        with self.store.work(created_by) as work:
            model = RegisteredModel(
                name=checks.checked_model_name(name),
                created_at=work.now,
                updated_at=work.now,
                description=checks.checked_text(description, "description"),
                tags=checks.checked_tags(tags or ()),
                owner=checks.checked_text(owner, "owner") or created_by,
                project=checks.checked_project(project),
                licence=checks.checked_text(licence, "licence"),
            )
            if not store_models.add(work.rows, model):
                raise Conflict(f"There is a model {name} already. Update it, or choose another name.")
            tell_created(work, model)
        return model

    @operation("GET", "/models/{name}", needs="registry.read")
    def get_registered_model(self, name: str) -> RegisteredModel:
        """The model with its tags and aliases, without its versions; NotFound names the nearest known ones.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.get_registered_model("fraud").owner
        'ana@example.com'
        """
        with self.store.reading() as rows:
            return found_model(rows, name)

    @operation("PATCH", "/models/{name}", needs="registry.write")
    def update_model(
        self,
        name: str,
        user: str,
        *,
        description: str | None = None,
        tags: list[str] | None = None,
        owner: str | None = None,
        project: str | None = None,
        licence: str | None = None,
    ) -> RegisteredModel:
        """The model with what is given replaced.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.create_model("fraud", "ana@example.com")
        >>> registry.update_model("fraud", "ana@example.com", licence="Apache-2.0").licence
        'Apache-2.0'
        """
        given: dict[str, Any] = {
            "description": None if description is None else checks.checked_text(description, "description"),
            "tags": None if tags is None else checks.checked_tags(tags),
            "owner": None if owner is None else checked_person(owner, "owner"),
            "project": None if project is None else checks.checked_project(project),
            "licence": None if licence is None else checks.checked_text(licence, "licence"),
        }
        with self.store.work(checked_person(user, "user")) as work:
            old = found_model(work.rows, name)
            new = replace(old, updated_at=work.now, **{key: value for key, value in given.items() if value is not None})
            store_models.update(work.rows, new)
            changes = {
                key: {"from": getattr(old, key), "to": getattr(new, key)}
                for key in given
                if getattr(old, key) != getattr(new, key)
            }
            work.emit(EventType.REGISTERED_MODEL_UPDATED, Resource("model", name), {"changes": changes})
        return new

    @operation("POST", "/models/{name}/rename", needs="registry.write")
    def rename_model(self, name: str, new_name: str, user: str) -> RegisteredModel:
        """The model under its new name, with its versions, tags, aliases, requests, bytes and children.

        Conflict if the name is taken, if a promotion policy was approved for either name, or while a version is in
        production: what serves, watches and reports knows it by its name. The history of a version goes on from that
        under the old name.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fruad", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.rename_model("fruad", "fraud", "ana@example.com")
        >>> len(registry.history("fraud", "v1.0.0"))
        1
        """
        checks.checked_model_name(new_name)
        with self.store.work(checked_person(user, "user")) as work:
            model = found_model(work.rows, name)
            if store_models.model(work.rows, new_name) is not None:
                raise Conflict(f"There is a model {new_name} already. Choose another name.")
            for one in (
                name,
                new_name,
            ):  # or one name would be left without its rules, or come under those of the other
                if store_policies.policies(work.rows, scope=one, stage=None, status=PolicyStatus.ACTIVE, limit=1):
                    raise Conflict(
                        f"A promotion policy was approved for the name {one}, so {name} cannot be renamed {new_name}. "
                        f"See it: modelyard registry list-policies --scope {one}"
                    )
            version = store.some_in_stage(work.rows, name, ModelStage.PRODUCTION)
            if version is not None:
                raise Conflict(f"{name} {version} is in production. Demote or archive it before renaming {name}.")
            changes = {"name": {"from": name, "to": new_name}}
            told = work.emit(EventType.REGISTERED_MODEL_UPDATED, Resource("model", new_name), {"changes": changes})
            for canonical, digest in store_models.bytes_of(work.rows, name):
                if digest:
                    self.store.artifacts.hold(work.rows, digest, holder(new_name, canonical))
                    self.store.artifacts.release(work.rows, digest, holder(name, canonical))
            store_models.rename(work.rows, name, new_name, position=told.position or 0)
            store_models.update(work.rows, replace(model, name=new_name, updated_at=work.now))
            return found_model(work.rows, new_name)

    @operation("DELETE", "/models/{name}", needs="registry.write")
    def delete_model(self, name: str, user: str) -> None:
        """Removes a model with all its versions; Conflict if one is in production or has an alias. Their history stays.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.delete_model("fraud", "ana@example.com")
        >>> registry.search_models().items
        ()
        """
        with self.store.work(checked_person(user, "user")) as work:
            model = found_model(work.rows, name)
            decision = rules.may_delete_model(model, store.some_in_stage(work.rows, name, ModelStage.PRODUCTION))
            if decision.verdict is Verdict.REFUSE:
                raise Conflict(decision.reasons[0])
            removed = 0
            while some := store.versions(work.rows, name=name, stage=None, tag=None, after=None, limit=500):
                for version in some:
                    remove_version(work, version)
                removed += len(some)
            store_models.delete(work.rows, name)
            work.emit(EventType.REGISTERED_MODEL_DELETED, Resource("model", name), {"versions": removed})
