"""Webhooks: who is told of what happens in the registry."""

from __future__ import annotations

from mlflow.entities.webhook import WebhookEvent, WebhookStatus

URL = "https://93.184.215.14/hook"  # a public address, to which nothing is sent here


def life(scene):
    client = scene.client
    made = client.create_webhook(
        "first-hook", URL, ["registered_model.created", "model_version_tag.set"], description="d", secret="s3cret"
    )
    scene.tell("made", _told(made))
    scene.tell("read", _told(client.get_webhook(made.webhook_id)))
    changed = client.update_webhook(
        made.webhook_id,
        name="renamed",
        description="e",
        status=WebhookStatus.DISABLED,
        events=["model_version.created"],
    )
    scene.tell("changed", _told(changed))
    scene.tell("listed", [one.name for one in client.list_webhooks() if one.webhook_id == made.webhook_id])
    client.delete_webhook(made.webhook_id)
    scene.fails("gone", client.get_webhook, made.webhook_id)
    scene.fails("delete again", client.delete_webhook, made.webhook_id)


def refused(scene):
    client, events = scene.client, [WebhookEvent("model_version", "created")]
    for place, name in enumerate(("", "-a", "a b", "a" * 64)):
        scene.fails_by_code(f"name {place}", client.create_webhook, name, URL, events)
    for place, url in enumerate(
        (
            "",
            "ftp://example.org",
            "http://93.184.215.14/x",
            "https://",
            "https://127.0.0.1/x",
            "https://10.0.0.1/",
            "https://[::1]/",
            "nonsense",
        )
    ):
        scene.fails_by_code(f"url {place}", client.create_webhook, "hook", url, events)
    scene.fails("no events", client.create_webhook, "hook", URL, [])
    scene.fails("unknown", client.get_webhook, "nothing")
    scene.fails("update unknown", client.update_webhook, "nothing", name="x")


def pages(scene):
    client = scene.client
    made = [client.create_webhook(f"page-{place}", URL, ["model_version.created"]) for place in range(3)]
    first = client.list_webhooks(max_results=2)
    scene.tell("page", [len(first), bool(first.token)])
    scene.tell("rest", len(client.list_webhooks(max_results=2, page_token=first.token)) >= 1)
    for one in made:
        client.delete_webhook(one.webhook_id)


def _told(webhook):
    return {
        "name": webhook.name,
        "url": webhook.url,
        "events": sorted(str(event) for event in webhook.events),
        "description": webhook.description,
        "status": str(webhook.status),
        "secret": webhook.secret,
    }
