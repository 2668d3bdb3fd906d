"""Governance: bias measured with intervals, controls backed by events, and lineage in one graph."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.files import replace_whole
from modelyard.core.instants import Instant
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.governance import facts, report, rules, store
from modelyard.governance.bias import BiasAssessments
from modelyard.governance.compliance import Compliance
from modelyard.governance.provenance import Provenance
from modelyard.governance.values import ComplianceFramework, Node

MADE = (EventType.MODEL_REGISTERED, EventType.LINEAGE_RECORDED)


class GovernanceManager(Provenance, BiasAssessments, Compliance):
    """Bias, compliance evidence and lineage of model versions, on a folder, a database URL or a shared store.

    A model is named `name:version`, or by its name alone for the version recorded last.
    """

    @operation("GET", "/governance/models/{model_id}/card", needs="governance.read")
    def model_card(self, model_id: str) -> str:
        """The model card in Markdown, from stored facts alone.

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> gov.model_card("fraud_detector").splitlines()[0]
        '# Model card: fraud_detector:v1.0.0'
        """
        with facts.reading(self.store) as rows:
            return report.card(_told_of(rows, facts.model(rows, model_id), self.store.clock.now()))

    @operation("POST", "/governance/models/{model_id}/reports", needs="governance.write")
    async def export_governance_report(self, model_id: str, output_path: str | Path, *, user: str = "system") -> str:
        """The path of the written report: bias, compliance, evidence and lineage; .html makes a page, .json a document.

        The file's SHA-256 is in the REPORT_GENERATED event, so a changed file is noticed.

        >>> import asyncio
        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> asyncio.run(gov.export_governance_report("fraud_detector", folder / "report.json")).endswith("report.json")
        True
        """
        file = Path(output_path)
        if file.suffix.lower() not in report.WRITERS:
            raise Invalid(f"A report is no {file.suffix} file. Name a .json or .html one.")
        made = self._report(model_id)
        model: Node = made["lineage"].model
        text = report.WRITERS[file.suffix.lower()](made)
        replace_whole(file, text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        with self.store.work(user) as work:
            told = {"model": model.name, "version": model.version, "file": file.name, "digest": digest}
            work.emit(EventType.REPORT_GENERATED, model.resource, told)
        return str(output_path)

    def _report(self, model_id: str) -> dict[str, Any]:
        """Everything that is known of a model version; evidence for each framework that it was assessed or stated under."""
        tree = self.get_full_lineage_tree(model_id)
        name = tree.model.reference
        with self.store.reading() as rows:
            assessed = store.compliance_of(rows, name)
            bias = store.bias_of(rows, name)
            stated = {which.value for which in ComplianceFramework if store.attestations(rows, name, which.value)}
        frameworks = sorted({entry["framework"] for entry in assessed} | stated)
        return {
            "model": name,
            "generated_at": self.store.clock.now(),
            "note": report.NOTE,
            "bias_reports": bias,
            "compliance": assessed,
            "evidence": {entry: self.controls(name, ComplianceFramework(entry)) for entry in frameworks},
            "lineage": tree,
        }


def _told_of(rows: Connection, model: Node, now: Instant) -> dict[str, Any]:
    """What a model card says of a version."""
    upstream, _ = store.upstream(rows, model.id)
    told = [store.first_event(rows, kind, "model", model.reference) for kind in MADE]
    first = min((event for event in told if event), key=lambda event: event.position or 0, default=None)
    newest = {(one["attribute"], one["bias_type"]): one for one in store.bias_of(rows, model.reference)}
    stated = [
        one for which in ComplianceFramework for one in store.attestations(rows, model.reference, which.value).values()
    ]
    return {
        "model": model.reference,
        "registered": model.details,
        "registered_by": first.actor if first else None,
        "registered_at": first.occurred_at if first else None,
        "datasets": [node for node in upstream if node.kind == "dataset"],
        "bias": list(newest.values()),
        "stated": [one for one in stated if one.says == rules.MET and rules.holds(one, now)],
    }
