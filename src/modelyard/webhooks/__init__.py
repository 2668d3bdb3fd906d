"""Webhooks: signed messages to other systems about what happens here, at least once and in order."""

from modelyard.webhooks.hooks import Delivery, DeliveryStatus, Round, TestResult, Webhook, WebhookStatus
from modelyard.webhooks.service import Webhooks

__all__ = ["Delivery", "DeliveryStatus", "Round", "TestResult", "Webhook", "WebhookStatus", "Webhooks"]
