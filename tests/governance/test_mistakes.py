"""What callers get wrong is named before anything is kept, and what they may well write is understood."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest

from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.refs import Resource
from modelyard.governance import BiasType, ComplianceFramework

GDPR = ComplianceFramework.GDPR


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"contains_pii": "no"}, "contains_pii is 'no'"),
        ({"contains_phi": 1}, "contains_phi is 1"),
        ({"rows": -5}, "rows is -5"),
        ({"rows": True}, "rows is True"),
        ({"derived_from": "train_001"}, r"Pass \['train_001'\]"),
    ],
)
def test_a_dataset_that_says_what_cannot_be_is_refused(known, given, said):
    with pytest.raises(Invalid, match=said):
        known.register_dataset("raw", **given)
    with pytest.raises(LookupError):
        known.models_that_saw("raw")


def test_a_feature_alone_is_not_taken_apart_into_its_letters(known):
    with pytest.raises(Invalid, match=r"Pass \['amount'\]"):
        known.register_model("fraud", "v2.0.0", features="amount")
    assert "feature:a" not in str(known.get_full_lineage_tree("fraud"))


def test_an_attribute_alone_is_not_taken_apart_into_its_letters(known, tmp_path):
    (tmp_path / "p.csv").write_text("y,p,sex\n1,1,f\n0,1,m\n")
    call = known.assess_bias_in_file("fraud", tmp_path / "p.csv", label="y", prediction="p", sensitive="sex")
    with pytest.raises(Invalid, match=r"Pass \['sex'\]"):
        asyncio.run(call)


@pytest.mark.parametrize("source", ["Dataset:train_001", "data set:train_001", "-:train_001"])
def test_a_kind_that_is_none_makes_no_node(known, source):
    with pytest.raises(Invalid, match="dataset:train_001"):
        known.record_lineage(source, "model:fraud:v1.0.0")


def test_a_registered_model_is_answered_as_it_is_kept(known):
    again = known.register_model("fraud", "v1.0.0", description="Card payments")
    assert again == known.get_full_lineage_tree("fraud").model
    assert again.details["training_dataset"] == "train_001"


def test_sensitive_attributes_may_come_as_a_frame(known):
    frame = pd.DataFrame({"sex": ["f", "m"] * 50, "age": ["old", "young"] * 50})
    reports = asyncio.run(known.assess_bias("fraud", [0, 1] * 50, [1, 1] * 50, frame))
    assert len(reports) == 2 * len(BiasType)


@pytest.mark.parametrize("sensitive", [["f", "m"] * 50, pd.Series(["f", "m"] * 50), "sex", pd.DataFrame()])
def test_attributes_without_names_are_refused(known, sensitive):
    with pytest.raises(Invalid, match="'gender': values"):
        asyncio.run(known.assess_bias("fraud", [0, 1] * 50, [1, 1] * 50, sensitive))


def test_a_statement_may_expire_at_a_time_without_a_zone(known, clock):
    local = (clock.now() + timedelta(days=9)).astimezone().replace(tzinfo=None)
    made = known.attest("fraud", GDPR, "right_to_erasure", statement="done", attested_by="dpo", expires=local)
    assert made.expires == clock.now() + timedelta(days=9)


@pytest.mark.parametrize("expires", ["2027-01-01", date(2027, 1, 1), 1.0])
def test_a_statement_expires_at_a_time(known, expires):
    with pytest.raises(Invalid, match="datetime"):
        known.attest("fraud", GDPR, "right_to_erasure", statement="done", attested_by="dpo", expires=expires)


@pytest.mark.parametrize("person", ["", " ", None, "\u200b"])
def test_a_statement_needs_a_person(known, person):
    with pytest.raises(Invalid, match="attested_by"):
        known.attest("fraud", GDPR, "right_to_erasure", statement="done", attested_by=person)


@pytest.mark.parametrize("name", ["report.pdf", "report.md", "report.csv"])
def test_a_report_is_written_as_what_its_name_says_or_not_at_all(known, tmp_path, name):
    with pytest.raises(Invalid, match=r"\.json or \.html"):
        asyncio.run(known.export_governance_report("fraud", tmp_path / name))
    assert not (tmp_path / name).exists()


def test_a_card_shows_the_newest_of_each_measure_and_no_statement_that_has_expired(known, clock):
    soon = datetime(2026, 3, 8, tzinfo=UTC)
    known.attest("fraud", GDPR, "right_to_erasure", statement="A daily job.", attested_by="dpo", expires=soon)
    for answers in ([0, 1] * 50, [1, 1] * 50):
        asyncio.run(known.assess_bias("fraud", [0, 1] * 50, answers, {"sex": ["f", "m"] * 50}))
    card = known.model_card("fraud")
    assert card.count("| statistical_parity | ") == 1
    assert "| sex | statistical_parity | 0.0000 |" in card
    assert "A daily job. (dpo, until 2026-03-08)" in card
    clock.advance(8 * 86400)
    assert "A daily job." not in known.model_card("fraud")


def test_a_card_names_who_registered_the_version_however_much_was_recorded_since(known):
    with known.store.work("ben") as work:
        for number in range(201):
            told = {"source": f"feature:f{number}", "target": "model:fraud:v1.0.0", "relation": "input"}
            work.emit(EventType.LINEAGE_RECORDED, Resource("model", "fraud:v1.0.0"), told)
    assert "- registered by: ann" in known.model_card("fraud")


def test_a_report_has_the_controls_that_people_made_statements_on(known, tmp_path):
    known.attest("fraud", ComplianceFramework.SOC2, "risk_assessment", statement="Reviewed.", attested_by="cto")
    asyncio.run(known.export_governance_report("fraud", tmp_path / "report.html"))
    assert "Evidence: soc2" in (tmp_path / "report.html").read_text()


def test_a_page_has_the_assessments_too(known, tmp_path):
    call = known.assess_compliance("fraud", GDPR, compliance_checks={"data_portability": True}, user="dpo")
    score = asyncio.run(call).compliance_score
    asyncio.run(known.export_governance_report("fraud", tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Assessments</h2>" in page
    assert f"<td>gdpr</td><td>{score:.4f}</td><td>2026-03-01" in page
