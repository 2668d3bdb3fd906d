"""What the registry, the audit log, deployments and monitors really write is what controls and lineage read."""

import asyncio

import pytest

from modelyard.audit import AuditLogger
from modelyard.core.evidence import EvidenceStatus
from modelyard.deployment import DeploymentManager
from modelyard.governance import ComplianceFramework, GovernanceManager
from modelyard.registry import ModelRegistry, ModelStage


@pytest.fixture
def folder(tmp_path, small_model):
    """A yard in which v1.0.0 is registered, promoted by a second person, and on its way out as a rollout."""
    registry = ModelRegistry(tmp_path / "yard")
    registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", "ann", training_data="train_001")
    registry.request_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION, "ann", "ready")
    registry.approve_promotion("fraud", "v1.0.0", "carol")
    DeploymentManager(registry.store).start("fraud", "v1.0.0", baseline="v0.9.0")
    return tmp_path / "yard"


def statuses(gov, which, model="fraud:v1.0.0"):
    return {row.control: row.status for row in gov.controls(model, which)}


def test_registered_approved_and_deployed_is_proved(folder):
    gov = GovernanceManager(folder)
    found = statuses(gov, ComplianceFramework.EU_AI_ACT)
    assert {name for name, status in found.items() if status is EvidenceStatus.PROVED} == {
        "record_keeping",
        "cybersecurity",
        "quality_management",
    }
    assert statuses(gov, ComplianceFramework.SOC2)["change_management"] is EvidenceStatus.PROVED


def test_the_datasets_record_completes_the_data_controls(folder):
    gov = GovernanceManager(folder)
    assert statuses(gov, ComplianceFramework.EU_AI_ACT)["data_governance"] is EvidenceStatus.MISSING
    gov.register_dataset("train_001", source="card payments 2025", contains_pii=True)
    assert statuses(gov, ComplianceFramework.EU_AI_ACT)["data_governance"] is EvidenceStatus.PROVED


def test_the_lineage_runs_from_the_data_to_the_rollout(folder):
    tree = GovernanceManager(folder).get_full_lineage_tree("fraud:v1.0.0")
    assert {branch.node.kind for branch in tree.upstream} == {"dataset", "artifact"}
    assert [branch.node.kind for branch in tree.downstream] == ["deployment"]
    assert tree.model.details["framework"] == "lightgbm"


def test_an_approval_told_to_the_audit_log_proves_nothing(tmp_path):
    gov = GovernanceManager(tmp_path)
    gov.register_model("fraud", "v1.0.0")
    AuditLogger(gov.store).log_approval_granted("fraud", "v1.0.0", "mallory")
    AuditLogger(gov.store).log_model_deployment("fraud", "v1.0.0", "mallory")
    found = statuses(gov, ComplianceFramework.EU_AI_ACT)
    assert EvidenceStatus.PROVED not in found.values()


def test_each_event_a_control_rests_on_has_a_proof_in_the_audit_log(folder, tmp_path):
    gov = GovernanceManager(folder)
    rows = [row for row in gov.controls("fraud:v1.0.0", ComplianceFramework.EU_AI_ACT) if row.event_id]
    audit = AuditLogger(folder)
    assert rows
    for row in rows:
        (tmp_path / "proof").write_text(audit.prove(row.event_id))
        assert audit.check(tmp_path / "proof", audit.keys.public_file).record["event_id"] == row.event_id
    assert audit.verify().ok


def test_everything_a_manager_does_is_one_log(folder, tmp_path):
    gov = GovernanceManager(folder)
    asyncio.run(gov.assess_bias("fraud:v1.0.0", [0, 1] * 50, [0, 1] * 50, {"sex": ["f", "m"] * 50}, user="ann"))
    asyncio.run(gov.assess_compliance("fraud:v1.0.0", ComplianceFramework.GDPR, {}, {"retention": True}, user="dpo"))
    asyncio.run(gov.export_governance_report("fraud:v1.0.0", tmp_path / "r.json", user="ann"))
    told = [event.event_type.value for event in AuditLogger(folder).query_events(resource_id="fraud:v1.0.0")]
    assert {"bias_assessed", "control_attested", "compliance_assessed", "report_generated"} <= set(told)
    assert AuditLogger(folder).verify().ok
