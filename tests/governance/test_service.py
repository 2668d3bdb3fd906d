"""Bias assessments, reports and cards on real data, and what bad input gets."""

import asyncio
import hashlib
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from modelyard.core.events import EventSeverity, EventType
from modelyard.core.work import event_from_row
from modelyard.data import load_census
from modelyard.governance import BiasType, BiasVerdict, ComplianceFramework


def events(gov, event_type):
    with gov.store.reading() as rows:
        found = [event_from_row(row) for row in rows.all("SELECT * FROM events ORDER BY position")]
    return [event for event in found if event.event_type is event_type]


def test_bias_by_sex_race_and_disability_in_the_census(known):
    frame = load_census([2015])
    adults = frame[frame["AGEP"] >= 16]
    guess = (adults["SCHL"] >= 16).to_numpy().astype(int)  # "has a diploma" as a crude model of being employed
    groups = {name: adults[name].to_numpy() for name in ("SEX", "RAC1P", "DIS")}
    reports = asyncio.run(known.assess_bias("fraud", adults["employed"].to_numpy(), guess, groups, user="ann"))
    assert len(reports) == 3 * len(BiasType)
    by_name = {(r.attribute, r.bias_type): r for r in reports}
    disability = by_name["DIS", BiasType.STATISTICAL_PARITY]
    rates = adults.assign(guess=guess).groupby("DIS")["guess"].mean()
    assert disability.bias_score == pytest.approx(rates.max() - rates.min())
    assert disability.verdict is BiasVerdict.BIASED
    assert by_name["SEX", BiasType.STATISTICAL_PARITY].verdict is BiasVerdict.WITHIN
    race = by_name["RAC1P", BiasType.STATISTICAL_PARITY]
    assert "Left out" in race.reason
    assert sum(row.n for row in race.groups) == race.n == len(adults)


def test_reports_are_kept_and_come_back_as_they_were(known):
    rng = np.random.default_rng(0)
    y, group = rng.integers(0, 2, 300), rng.integers(0, 3, 300)
    made = asyncio.run(known.assess_bias("fraud:v1.0.0", y, 1 - y, {"g": group}))
    assert known.bias_reports("fraud") == made
    told = events(known, EventType.BIAS_ASSESSED)
    assert [event.resource_id for event in told] == ["fraud:v1.0.0"]
    assert {result["report_id"] for result in told[0].details["results"]} == {report.report_id for report in made}


def test_bias_that_is_found_is_a_warning_in_the_log(known):
    y = np.tile([0, 1], 500)
    asyncio.run(known.assess_bias("fraud", y, y, {"g": np.arange(1000) % 2}))
    asyncio.run(known.assess_bias("fraud", y, np.zeros(1000), {"g": np.arange(1000) // 2 % 2}))
    severities = [event.severity for event in events(known, EventType.BIAS_ASSESSED)]
    assert severities == [EventSeverity.WARNING, EventSeverity.INFO]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sensitive": {}}, "No sensitive attribute"),
        ({"max_gap": 2}, "between 0 and 1"),
        ({"min_group_size": 0}, "1 or more"),
        ({"y_pred": [0.3, 0.7]}, "neither 0 nor 1"),
    ],
)
def test_a_refused_assessment_is_no_event(known, change, message):
    given = {"y_true": [0, 1], "y_pred": [0, 1], "sensitive": {"g": ["a", "b"]}, **change}
    with pytest.raises(ValueError, match=message):
        asyncio.run(known.assess_bias("fraud", **given))
    assert events(known, EventType.BIAS_ASSESSED) == []


def test_a_file_of_predictions_gives_what_its_columns_give(known, tmp_path):
    rng = np.random.default_rng(1)
    y, p, sex = rng.integers(0, 2, 400), rng.integers(0, 2, 400), rng.choice(["f", "m"], 400)
    lines = "\n".join(f"{a},{b},{c}" for a, b, c in zip(y, p, sex, strict=True))
    (tmp_path / "p.csv").write_text(f"y,p,sex\n{lines}\n")
    from_file = asyncio.run(
        known.assess_bias_in_file("fraud", tmp_path / "p.csv", label="y", prediction="p", sensitive=["sex"])
    )
    direct = asyncio.run(known.assess_bias("fraud", y, p, {"sex": sex}))
    assert [(r.bias_score, r.interval) for r in from_file] == [(r.bias_score, r.interval) for r in direct]
    with pytest.raises(ValueError, match="Did you mean sex"):
        asyncio.run(known.assess_bias_in_file("fraud", tmp_path / "p.csv", label="y", prediction="p", sensitive=["sx"]))


def test_the_report_has_everything_and_its_digest_is_in_the_log(known, tmp_path):
    y = np.tile([0, 1], 100)
    asyncio.run(known.assess_bias("fraud", y, y, {"g": y}))
    asyncio.run(known.assess_compliance("fraud", ComplianceFramework.GDPR, {"domain": "finance"}, {"retention": True}))
    path = asyncio.run(known.export_governance_report("fraud", tmp_path / "deep" / "report.json", user="ann"))
    found = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert {r["bias_type"] for r in found["bias_reports"]} == {kind.value for kind in BiasType}
    assert found["compliance"][0]["model_metadata"] == {"domain": "finance"}
    assert {r["status"] for r in found["evidence"]["gdpr"]} == {"proved", "attested", "missing"}
    assert "train_001" in json.dumps(found["lineage"])
    event = events(known, EventType.REPORT_GENERATED)[-1]
    assert event.details["digest"] == hashlib.sha256((tmp_path / "deep" / "report.json").read_bytes()).hexdigest()
    assert (event.actor, path) == ("ann", str(tmp_path / "deep" / "report.json"))
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["report.json"]


class Page(HTMLParser):
    """Collects what a page loads and which elements stay open."""

    def __init__(self):
        super().__init__()
        self.loads, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        self.open += [] if tag == "meta" else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_what_people_wrote(known, tmp_path):
    evil = "<script>alert(1)</script>"
    known.attest("fraud", ComplianceFramework.GDPR, "retention", statement=evil, attested_by=evil)
    asyncio.run(known.assess_compliance("fraud", ComplianceFramework.GDPR))
    asyncio.run(known.export_governance_report("fraud", tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    page = Page()
    page.feed(text)
    assert (page.loads, page.open) == ([], [])


def test_a_report_that_cannot_be_written_is_no_event(known, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        asyncio.run(known.export_governance_report("fraud", tmp_path / "file" / "report.json"))
    assert events(known, EventType.REPORT_GENERATED) == []


def test_the_card_says_what_is_known_and_what_is_not(known, emit):
    card = known.model_card("fraud")
    assert "# Model card: fraud:v1.0.0" in card
    assert "registered by: ann" in card
    assert "train_001: card payments; contains personal data" in card
    assert "framework: not recorded" in card
    assert "Not measured." in card
    emit(EventType.MODEL_REGISTERED, "model", "fraud:v1.0.0", {"framework": "sklearn", "metrics": {"f1": 0.93}})
    known.attest("fraud", ComplianceFramework.EU_AI_ACT, "oversight", statement="Clerks review.", attested_by="cto")
    y = np.tile([0, 1], 100)
    asyncio.run(known.assess_bias("fraud", y, y, {"a|b": y}))
    card = known.model_card("fraud")
    assert "framework: sklearn" in card
    assert "- f1: 0.93" in card
    assert "human_oversight (eu_ai_act): Clerks review. (cto, until 2027-03-01)" in card
    assert "| a\\|b | statistical_parity | 1.0000 |" in card


@pytest.mark.parametrize("name", ["", "../x", "a:b", "x" * 200, None])
def test_names_that_are_no_names_are_refused(gov, name):
    with pytest.raises(ValueError, match="name"):
        gov.register_dataset(name)
    with pytest.raises(ValueError, match="name"):
        gov.register_model(name, "v1.0.0")


def test_registering_a_dataset_again_adds_to_what_is_known(gov):
    gov.register_dataset("d", source="shops", contains_pii=True)
    known = gov.register_dataset("d", license="CC-BY-4.0")
    assert known.details == {"source": "shops", "contains_pii": True, "license": "CC-BY-4.0", "registered": True}
    assert [event.details for event in events(gov, EventType.DATASET_REGISTERED)][-1] == known.details
