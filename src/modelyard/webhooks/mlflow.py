"""MLflow's webhook events: their names, the events of ours that they stand for, and their payloads.

Names, payload fields and examples as MLflow 3.17 documents them (mlflow.webhooks). `budget_policy.exceeded` can be
subscribed to and never happens here: there are no budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelyard.core.events import Event, EventType

Part = tuple[str, dict[str, Any]]  # a name of MLflow's and the data of its payload

IS_PROMPT, PROMPT_TEXT, PROMPT_TYPE = "mlflow.prompt.is_prompt", "mlflow.prompt.text", "_mlflow_prompt_type"

_MODEL, _PROMPT = {"name": "example_model"}, {"name": "example_prompt"}
_VERSION, _KEY, _VALUE = {"version": "1"}, {"key": "example_key"}, {"value": "example_value"}
_ALIAS, _TAGS = {"alias": "example_alias"}, {"tags": {"example_key": "example_value"}}

# name -> the data of the message that tests a webhook
NAMES: Mapping[str, Mapping[str, Any]] = {
    "registered_model.created": {**_MODEL, **_TAGS, "description": "An example registered model"},
    "model_version.created": {
        **_MODEL,
        **_VERSION,
        "source": "models:/123",
        "run_id": "abcd1234abcd5678",
        **_TAGS,
        "description": "An example model version",
    },
    "model_version_tag.set": {**_MODEL, **_VERSION, **_KEY, **_VALUE},
    "model_version_tag.deleted": {**_MODEL, **_VERSION, **_KEY},
    "model_version_alias.created": {**_MODEL, **_ALIAS, **_VERSION},
    "model_version_alias.deleted": {**_MODEL, **_ALIAS},
    "prompt.created": {**_PROMPT, **_TAGS, "description": "An example prompt"},
    "prompt_version.created": {
        **_PROMPT,
        **_VERSION,
        "template": "Hello {{name}}!",
        **_TAGS,
        "description": "An example prompt version",
    },
    "prompt_tag.set": {**_PROMPT, **_KEY, **_VALUE},
    "prompt_tag.deleted": {**_PROMPT, **_KEY},
    "prompt_version_tag.set": {**_PROMPT, **_VERSION, **_KEY, **_VALUE},
    "prompt_version_tag.deleted": {**_PROMPT, **_VERSION, **_KEY},
    "prompt_alias.created": {**_PROMPT, **_ALIAS, **_VERSION},
    "prompt_alias.deleted": {**_PROMPT, **_ALIAS},
    "budget_policy.exceeded": {
        "budget_policy_id": "bp-abc123",
        "budget_unit": "USD",
        "budget_amount": 100.0,
        "current_spend": 105.5,
        "duration_unit": "MONTHS",
        "duration_value": 1,
        "target_scope": "ENDPOINT",
        "workspace": "default",
        "target_value": "ep-abc123",
        "window_start": 1704067200000,
    },
}


def is_mlflow(name: str) -> bool:
    """True for an event's name of MLflow's, which is `entity.action`; ours have no dot."""
    return name in NAMES


def parts(event: Event) -> list[Part]:
    """What an event of ours is in MLflow's words: no, one or several messages.

    >>> from modelyard.core.events import EventSeverity
    >>> from modelyard.core.instants import EPOCH
    >>> alias = Event(
    ...     event_id="evt_1", event_type=EventType.ALIAS_SET, severity=EventSeverity.INFO, actor="ana",
    ...     resource_type="model", resource_id="fraud:v1.0.0", occurred_at=EPOCH,
    ...     details={"alias": "champion", "version": "v1.0.0", "number": 3},
    ... )
    >>> parts(alias)
    [('model_version_alias.created', {'name': 'fraud', 'alias': 'champion', 'version': '3'})]
    """
    told = TABLE.get(event.event_type)
    return told(event) if told else []


def envelope(name: str, data: Mapping[str, Any], timestamp: str) -> dict[str, Any]:
    """The whole payload of one of MLflow's messages."""
    entity, _, action = name.partition(".")
    return {"entity": entity, "action": action, "timestamp": timestamp, "data": dict(data)}


def _registered_model_created(event: Event) -> list[Part]:
    tags, prompt = _pairs(event.details.get("tags")), _is_prompt(event)
    data = {"name": _model(event), "tags": _without(tags) if prompt else tags, "description": _description(event)}
    return [(_name("registered_model.created", prompt=prompt), data)]


def _model_version_created(event: Event) -> list[Part]:
    tags, head = _pairs(event.details.get("tags")), {"name": _model(event), "version": _version(event)}
    if _is_prompt(event):
        template = tags.get(PROMPT_TEXT)
        tags = {key: value for key, value in _without(tags).items() if key != PROMPT_TEXT}
        data = {**head, "template": template, "tags": tags, "description": _description(event)}
        return [("prompt_version.created", data)]
    origin = {"source": event.details.get("source") or "", "run_id": event.details.get("run_id") or None}
    return [("model_version.created", {**head, **origin, "tags": tags, "description": _description(event)})]


def _model_version_updated(event: Event) -> list[Part]:
    head = {"name": _model(event), "version": _version(event)}
    return _tag_changes(event, "prompt_version_tag" if _is_prompt(event) else "model_version_tag", head)


def _registered_model_updated(event: Event) -> list[Part]:
    return _tag_changes(event, "prompt_tag", {"name": _model(event)}) if _is_prompt(event) else []


def _alias_set(event: Event) -> list[Part]:
    entity, data = _name("model_version_alias", prompt=_is_prompt(event)), {"name": _model(event)}
    data["alias"] = str(event.details.get("alias"))
    if event.details.get("version") is None:
        return [(f"{entity}.deleted", data)]
    return [(f"{entity}.created", {**data, "version": _version(event)})]


TABLE: Mapping[EventType, Callable[[Event], list[Part]]] = {
    EventType.REGISTERED_MODEL_CREATED: _registered_model_created,
    EventType.REGISTERED_MODEL_UPDATED: _registered_model_updated,
    EventType.MODEL_REGISTERED: _model_version_created,
    EventType.MODEL_UPDATED: _model_version_updated,
    EventType.ALIAS_SET: _alias_set,
}

_PROMPTS = {"registered_model.created": "prompt.created", "model_version_alias": "prompt_alias"}


def _name(name: str, *, prompt: bool) -> str:
    return _PROMPTS[name] if prompt else name


def _tag_changes(event: Event, entity: str, head: Mapping[str, Any]) -> list[Part]:
    """All tags are told under `tags`, a single one under `tags.KEY`; each as what it was and what it is."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for name, change in (event.details.get("changes") or {}).items():
        if name == "tags" or name.startswith("tags."):
            before |= _pairs(change.get("from"))
            after |= _pairs(change.get("to"))
    set_now = {key: value for key, value in after.items() if before.get(key) != value}
    found: list[Part] = [(f"{entity}.set", {**head, "key": key, "value": value}) for key, value in set_now.items()]
    return found + [(f"{entity}.deleted", {**head, "key": key}) for key in before if key not in after]


def _pairs(tags: Any) -> dict[str, str]:
    """Tags as keys and values, however they are told: a mapping, or one or several `key=value` and bare labels."""
    if isinstance(tags, Mapping):
        return {str(key): str(value) for key, value in tags.items()}
    split = (str(tag).partition("=") for tag in ([tags] if isinstance(tags, str) else tags or ()))
    return {key: value for key, _, value in split}


def _without(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key not in (IS_PROMPT, PROMPT_TYPE)}


def _is_prompt(event: Event) -> bool:
    """MLflow keeps prompts as registered models with a tag."""
    if event.details.get("prompt"):
        return True
    return _pairs(event.details.get("tags")).get(IS_PROMPT, "").lower() == "true"


def _model(event: Event) -> str:
    name, colon, _ = event.resource_id.rpartition(":")
    return name if colon and event.resource_type == "model" else event.resource_id


def _version(event: Event) -> str:
    """MLflow's number of the version where the event tells it, else the version as written."""
    number = event.details.get("number")
    written = event.details.get("version") or event.resource_id.rpartition(":")[2]
    return str(number or written)


def _description(event: Event) -> str | None:
    return event.details.get("description") or None
