"""A control's status comes from events and named people, and can be recomputed by anyone."""

import asyncio
from datetime import timedelta

import pytest

from modelyard.core.canonical import digest
from modelyard.core.events import EventType
from modelyard.core.evidence import EvidenceStatus
from modelyard.core.work import event_from_row
from modelyard.governance import ComplianceFramework
from modelyard.governance.controls import FOLDER, load_framework

GDPR, AI_ACT, HIPAA, SOC2 = (
    ComplianceFramework.GDPR,
    ComplianceFramework.EU_AI_ACT,
    ComplianceFramework.HIPAA,
    ComplianceFramework.SOC2,
)


def row(gov, which, control, model="fraud"):
    return next(row for row in gov.controls(model, which) if row.control == control)


def events(gov):
    with gov.store.reading() as rows:
        return [event_from_row(r) for r in rows.all("SELECT * FROM events ORDER BY position")]


@pytest.mark.parametrize("which", ComplianceFramework, ids=lambda which: which.value)
def test_each_framework_reads_and_each_name_means_one_control(which):
    known = load_framework(which)
    names = [name for control in known.controls for name in (control.id, *control.names)]
    assert len(names) == len(set(names))
    assert len(known.controls) >= 15
    assert known.id == which.value
    for control in known.controls:
        assert control.ask.endswith(".")
        assert bool(control.needs) == bool(control.claim)


def test_no_text_of_ours_calls_anything_compliant(known, tmp_path):
    asyncio.run(known.assess_compliance("fraud", GDPR))
    asyncio.run(known.export_governance_report("fraud", tmp_path / "r.html"))
    texts = [file.read_text() for file in FOLDER.glob("*.toml")] + [(tmp_path / "r.html").read_text()]
    assert len(texts) == 6
    assert not any("compliant" in text.lower() for text in texts)


def test_a_control_is_proved_by_an_event_whose_digest_anyone_can_recompute(known, emit):
    assert row(known, GDPR, "right_to_explanation").status is EvidenceStatus.MISSING
    event = emit(EventType.PREDICTION_EXPLAINED, "model", "fraud:v1.0.0")
    found = row(known, GDPR, "right_to_explanation")
    assert (found.status, found.event_id, found.person) == (EvidenceStatus.PROVED, event.event_id, "bob")
    stored = next(e for e in events(known) if e.event_id == found.event_id)
    assert found.digest == digest(stored)
    assert row(known, GDPR, "records_of_processing").status is EvidenceStatus.PROVED


def test_events_of_another_version_or_model_prove_nothing(known, emit):
    known.register_model("fraud", "v2.0.0", "train_001")
    known.register_model("fraud_other", "v1.0.0", "train_001")
    emit(EventType.PREDICTION_EXPLAINED, "model", "fraud:v2.0.0")
    emit(EventType.PREDICTION_EXPLAINED, "model", "fraud_other:v1.0.0")
    emit(EventType.PREDICTION_EXPLAINED, "endpoint", "e1", {"model": "fraudXv", "version": "v1.0.0"})
    emit(EventType.PREDICTION_EXPLAINED, "endpoint", "e1", {"model": "fraud", "version": "v9.0.0"})
    assert row(known, GDPR, "right_to_explanation", "fraud:v1.0.0").status is EvidenceStatus.MISSING
    assert row(known, GDPR, "right_to_explanation", "fraud:v2.0.0").status is EvidenceStatus.PROVED
    emit(EventType.PREDICTION_EXPLAINED, "endpoint", "e1", {"model": "fraud", "version": "v1.0.0"})
    assert row(known, GDPR, "right_to_explanation", "fraud:v1.0.0").status is EvidenceStatus.PROVED


def test_a_deployment_that_names_the_model_as_one_text_counts(known, emit):
    emit(EventType.MODEL_REGISTERED, "model", "fraud:v1.0.0", {"digest": "ab" * 32})
    assert "deployment" in row(known, AI_ACT, "record_keeping").statement
    emit(EventType.DEPLOYMENT_STARTED, "deployment", "dep_1", {"model": "fraud:v1.0.0", "endpoint": "fraud"})
    assert row(known, AI_ACT, "record_keeping").status is EvidenceStatus.PROVED
    emit(EventType.ARTIFACT_STORED, "artifact", "ab" * 32)
    assert row(known, AI_ACT, "cybersecurity").status is EvidenceStatus.PROVED


def test_proof_grows_old(known, emit, clock):
    emit(EventType.DRIFT_CHECKED, "model", "fraud:v1.0.0")
    clock.advance(timedelta(days=89).total_seconds())
    assert row(known, GDPR, "accuracy_of_data").status is EvidenceStatus.PROVED
    clock.advance(timedelta(days=2).total_seconds())
    assert row(known, GDPR, "accuracy_of_data").status is EvidenceStatus.MISSING


def test_every_dataset_of_the_lineage_must_be_on_record(known):
    known.register_dataset("raw", derived_from=[])
    known.record_lineage("dataset:raw", "dataset:train_001", "derived")
    found = row(known, GDPR, "records_of_processing")
    assert found.status is EvidenceStatus.MISSING
    known.register_dataset("raw", source="shops", contains_pii=False)
    assert row(known, GDPR, "records_of_processing").status is EvidenceStatus.PROVED


def test_what_somebody_reported_is_attested_and_not_proved(known, emit):
    approved = {"request_id": "r", "approvers": ["carol"]}
    emit(EventType.STAGE_CHANGED, "model", "fraud:v1.0.0", {"to": "staging"}, actor="carol")
    assert row(known, AI_ACT, "quality_management").status is EvidenceStatus.MISSING
    emit(EventType.STAGE_CHANGED, "model", "fraud:v1.0.0", {**approved, "reported": True}, actor="mallory")
    found = row(known, AI_ACT, "quality_management")
    assert (found.status, found.person) == (EvidenceStatus.ATTESTED, "mallory")
    emit(EventType.STAGE_CHANGED, "model", "fraud:v1.0.0", approved, actor="carol")
    assert row(known, AI_ACT, "quality_management").status is EvidenceStatus.PROVED


def test_an_attestation_holds_until_it_expires(known, clock):
    said = known.attest("fraud", GDPR, "erasure", statement="A nightly job.", attested_by="dpo@company.com")
    found = row(known, GDPR, "right_to_erasure")
    assert (found.status, found.person, found.expires) == (EvidenceStatus.ATTESTED, "dpo@company.com", said.expires)
    assert said.expires == clock.now() + timedelta(days=365)
    clock.advance(timedelta(days=366).total_seconds())
    found = row(known, GDPR, "right_to_erasure")
    assert found.status is EvidenceStatus.MISSING
    assert "dpo@company.com expired" in found.statement


def test_an_exemption_has_a_reason_and_a_person(known):
    known.exempt("fraud", GDPR, "consent", statement="Rests on a contract.", attested_by="dpo@company.com")
    found = row(known, GDPR, "consent_management")
    assert (found.status, found.person) == (EvidenceStatus.NOT_APPLICABLE, "dpo@company.com")
    for statement, person in (("", "dpo"), ("  ", "dpo"), ("words", " ")):
        with pytest.raises(ValueError, match=r"needs words|attested_by"):
            known.exempt("fraud", GDPR, "consent", statement=statement, attested_by=person)


def test_a_framework_about_personal_data_does_not_apply_to_data_without_any(gov):
    gov.register_dataset("iris", source="flowers", contains_pii=False, created_by="ann")
    gov.register_model("iris", "v1.0.0", "iris")
    rows = gov.controls("iris", GDPR)
    assert {r.status for r in rows} == {EvidenceStatus.NOT_APPLICABLE}
    assert {r.person for r in rows} == {"ann"}
    assert "iris" in rows[0].statement
    assert asyncio.run(gov.assess_compliance("iris", GDPR)).compliance_score is None
    gov.register_dataset("unknown", source="somewhere")
    gov.record_lineage("dataset:unknown", "model:iris:v1.0.0")
    assert EvidenceStatus.MISSING in {r.status for r in gov.controls("iris", GDPR)}
    assert EvidenceStatus.MISSING in {r.status for r in gov.controls("iris", HIPAA)}


def test_a_persons_no_outweighs_proof_until_it_is_taken_back(known, emit):
    emit(EventType.PREDICTION_EXPLAINED, "model", "fraud:v1.0.0")
    report = asyncio.run(known.assess_compliance("fraud", GDPR, {}, {"right_to_explanation": False}, user="dpo"))
    assert "right_to_explanation" in report.requirements_failed
    assert row(known, GDPR, "right_to_explanation").status is EvidenceStatus.MISSING
    report = asyncio.run(known.assess_compliance("fraud", GDPR, {}, {"right_to_explanation": True}, user="dpo"))
    assert "right_to_explanation" in report.requirements_passed
    assert row(known, GDPR, "right_to_explanation").status is EvidenceStatus.PROVED


def test_the_score_is_the_share_of_applicable_controls_with_evidence(known):
    known.exempt("fraud", GDPR, "consent", statement="Rests on a contract.", attested_by="dpo")
    report = asyncio.run(known.assess_compliance("fraud", GDPR, {}, {"data_portability": True}))
    total = len(load_framework(GDPR).controls) - 1
    assert report.compliance_score == pytest.approx(100 * len(report.requirements_passed) / total)
    assert len(report.requirements_passed) + len(report.requirements_failed) == total
    assert report.requirements_passed == ("data_portability", "records_of_processing")


def test_misspelt_names_are_answered_with_the_nearest(known):
    with pytest.raises(ValueError, match="right_to_erasure"):
        asyncio.run(known.assess_compliance("fraud", GDPR, {}, {"right_to_erazure": True}))
    with pytest.raises(ValueError, match="Did you mean gdpr"):
        asyncio.run(known.assess_compliance("fraud", "gdrp"))
    with pytest.raises(ValueError, match="true or false"):
        asyncio.run(known.assess_compliance("fraud", GDPR, {}, {"right_to_erasure": "yes"}))
    with pytest.raises(LookupError, match="Did you mean fraud"):
        known.controls("fruad", GDPR)
    with pytest.raises(LookupError, match=r"no version 'v9'.*v1\.0\.0"):
        known.controls("fraud:v9", GDPR)
    assert [e for e in events(known) if e.event_type is EventType.COMPLIANCE_ASSESSED] == []


def test_a_refused_assessment_leaves_nothing_behind(known):
    before = len(events(known))
    with pytest.raises(ValueError, match="true or false"):
        asyncio.run(known.assess_compliance("fraud", GDPR, {}, {"data_retention": True, "right_to_erasure": 1}))
    assert len(events(known)) == before
    assert row(known, GDPR, "data_retention").status is EvidenceStatus.MISSING


def test_statements_and_assessments_are_told_of_as_events(known):
    known.attest("fraud", SOC2, "backup", statement="Weekly.", attested_by="ops")
    asyncio.run(known.assess_compliance("fraud", SOC2, {"domain": "finance"}, {"privacy": True}, user="eve"))
    told = [(e.event_type, e.actor, e.resource_id) for e in events(known)][-3:]
    assert told == [
        (EventType.CONTROL_ATTESTED, "ops", "fraud:v1.0.0"),
        (EventType.CONTROL_ATTESTED, "eve", "fraud:v1.0.0"),
        (EventType.COMPLIANCE_ASSESSED, "eve", "fraud:v1.0.0"),
    ]
    assert row(known, SOC2, "monitoring_of_controls").status is EvidenceStatus.PROVED
