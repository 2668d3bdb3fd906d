"""Labels: aliases that point at one version of a model, and tags on versions and on models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelyard.core.area import Area
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Forbidden, NotFound
from modelyard.core.events import EventType
from modelyard.core.models import ModelStage, ModelVersion, RegisteredModel
from modelyard.core.operations import operation
from modelyard.core.people import checked_person
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.registry import checks, moves, rules, store, store_models
from modelyard.registry import store_entries as entries
from modelyard.registry.checks import canonical_version, split_tag, tag_text
from modelyard.registry.lookup import SHOWN, found, found_model, no_alias, resource, tell_refusal


class Labels(Area):
    """Aliases and tags."""

    @operation("PUT", "/models/{name}/aliases/{alias}", needs="registry.write")
    def set_alias(self, name: str, alias: str, version: str, user: str = "system") -> ModelVersion:
        """The version, with the alias moved to it.

        `champion` is kept for versions in production: Forbidden for others, unless the model's policy leaves production
        open.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.set_alias("fraud", "challenger", "v1.0.0", user="ana@example.com").aliases
        ('challenger',)
        """
        checks.checked_alias(alias)
        with self.store.work(checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            decision = _may_have(work, model, alias)
            if decision.verdict is Verdict.ALLOW:
                return moves.point_alias(work, model, alias)
            tell_refusal(work, model, "set_alias", decision)
        raise Forbidden(decision.reasons[0], told=True)

    def set_alias_within(
        self, work: Work, name: str, alias: str, version: str, *, completed: int | None = None
    ) -> ModelVersion:
        """`set_alias` in a transaction that the caller owns: a refusal leaves nothing, not even an event.

        `completed` is the position of the event whose rollout named the version, None for a person's choice.
        """
        model = found(work.rows, name, version)
        decision = _may_have(work, model, alias)
        if decision.verdict is not Verdict.ALLOW:
            raise Forbidden(decision.reasons[0])
        because = {} if completed is None else {"completed": completed}
        return moves.point_alias(work, model, alias, **because)

    @operation("POST", "/models/{name}/champion", needs="registry.write")
    def promote_champion(self, name: str, version: str, actor: str = "system") -> ModelVersion:
        """The version, which is the champion from now on: called when a rollout to it completes.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.promote_champion("fraud", "v1.0.0", "ana@example.com")
        Traceback (most recent call last):
        modelyard.core.errors.Forbidden: fraud v1.0.0 is in development; only a production version can be ...
        """
        return self.set_alias(name, rules.CHAMPION, version, user=actor)

    @operation("DELETE", "/models/{name}/aliases/{alias}", needs="registry.write")
    def delete_alias(self, name: str, alias: str, user: str = "system") -> None:
        """Removes an alias; its version stays. NotFound if the model has no such alias.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.set_alias("fraud", "challenger", "v1.0.0", user="ana@example.com")
        >>> registry.delete_alias("fraud", "challenger", user="ana@example.com")
        """
        with self.store.work(checked_person(user, "user")) as work:
            model = store.by_alias(work.rows, name, alias)
            if model is None:
                raise NotFound(no_alias(work.rows, name, alias))
            store_models.remove_alias(work.rows, name, alias)
            work.emit(EventType.ALIAS_SET, resource(model), {"alias": alias, "version": None, "number": model.number})

    @operation("POST", "/models/{name}/versions/{version}/tags", needs="registry.write")
    def set_tag(self, name: str, version: str, key: str, user: str, *, value: str | None = None) -> ModelVersion:
        """The version with a tag set: a label without a value, else `key=value`, in place of an older value.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.set_tag("fraud", "v1.0.0", "team", "ana@example.com", value="risk").tags
        ('team=risk',)
        """
        checks.checked_value(value, checks.checked_key(key))
        with self.store.work(checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            entries.put_tag(work.rows, name, canonical_version(version), key, value)
            return _retagged(work, model, key, tag_text(key, value))

    @operation("DELETE", "/models/{name}/versions/{version}/tags", needs="registry.write")
    def delete_tag(self, name: str, version: str, key: str, user: str) -> ModelVersion:
        """The version without the tag; NotFound if it has none with this key.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com", tags=["risk"])
        >>> registry.delete_tag("fraud", "v1.0.0", "risk", "ana@example.com").tags
        ()
        """
        with self.store.work(checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            if not entries.remove_tag(work.rows, name, canonical_version(version), key):
                raise NotFound(f"{name} {version} has no tag {key!r:.80}. Its tags: {_listed(model.tags)}.")
            return _retagged(work, model, key, None)

    @operation("POST", "/models/{name}/tags", needs="registry.write")
    def set_model_tag(self, name: str, key: str, user: str, *, value: str | None = None) -> RegisteredModel:
        """The model with a tag set: a label without a value, else `key=value`, in place of an older value.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.create_model("fraud", "ana@example.com")
        >>> registry.set_model_tag("fraud", "team", "ana@example.com", value="risk").tags
        ('team=risk',)
        """
        checks.checked_value(value, checks.checked_key(key))
        with self.store.work(checked_person(user, "user")) as work:
            model = found_model(work.rows, name)
            entries.put_tag(work.rows, name, entries.MODEL, key, value)
            return _model_retagged(work, model, key, tag_text(key, value))

    @operation("DELETE", "/models/{name}/tags", needs="registry.write")
    def delete_model_tag(self, name: str, key: str, user: str) -> RegisteredModel:
        """The model without the tag; NotFound if it has none with this key.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.create_model("fraud", "ana@example.com", tags=["team=risk"])
        >>> registry.delete_model_tag("fraud", "team", "ana@example.com").tags
        ()
        """
        with self.store.work(checked_person(user, "user")) as work:
            model = found_model(work.rows, name)
            if not entries.remove_tag(work.rows, name, entries.MODEL, key):
                raise NotFound(f"{name} has no tag {key!r:.80}. Its tags: {_listed(model.tags)}.")
            return _model_retagged(work, model, key, None)


def _may_have(work: Work, model: ModelVersion, alias: str) -> Decision:
    if not rules.is_champion(alias) or model.stage is ModelStage.PRODUCTION:
        return rules.ALLOW
    asks = moves.policy_for(work.rows, model.name, ModelStage.PRODUCTION)
    return rules.may_be_champion(model, protected=asks.protected)


def _retagged(work: Work, old: ModelVersion, key: str, tag: str | None) -> ModelVersion:
    tags, change = _changed(old.tags, key, tag)
    entries.set_words(work.rows, old.name, canonical_version(old.version), (old.description, *tags))
    work.emit(EventType.MODEL_UPDATED, resource(old), {"number": old.number, **change})
    return replace(old, tags=tags)


def _model_retagged(work: Work, old: RegisteredModel, key: str, tag: str | None) -> RegisteredModel:
    tags, change = _changed(old.tags, key, tag)
    entries.set_words(work.rows, old.name, entries.MODEL, (old.name, old.description, *tags))
    work.emit(EventType.REGISTERED_MODEL_UPDATED, Resource("model", old.name), change)
    return replace(old, tags=tags)


def _changed(tags: Sequence[str], key: str, tag: str | None) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The tags with one in place of that of the same key, and what an event tells of it."""
    before = next((one for one in tags if split_tag(one)[0] == key), None)
    after = sorted([*(one for one in tags if one != before), *([] if tag is None else [tag])])
    told = {"from": before and before[:SHOWN], "to": tag and tag[:SHOWN]}
    return tuple(after), {"changes": {f"tags.{key}": told}}


def _listed(tags: Sequence[str]) -> str:
    return ", ".join(tag[:80] for tag in tags[:10]) or "none"
