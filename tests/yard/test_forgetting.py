"""One call forgets a person wherever the yard keeps them, says where, and leaves every sum as it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelyard import Yard
from modelyard.ab_testing.journal import key
from modelyard.audit import EventType
from modelyard.core.errors import Conflict, NotFound
from modelyard.features import FeatureType
from modelyard.serving import PredictionRequest

MODEL = '''
import numpy as np
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output

class Above:
    """Whether x is above 0."""
    def __init__(self):
        self.signature = Signature(inputs=(FeatureSpec(name="x"),), task="binary", classes=(0, 1))
    def predict(self, batch):
        said = (batch[:, 0] > 0).astype(np.int64)
        return Output(predictions=said, probabilities=np.column_stack([1.0 - said, said]).astype(float))
'''
WHO = "customer-17-of-the-rarest-name"


@pytest.fixture
def yard(tmp_path: Path) -> Any:
    with Yard(tmp_path / "yard") as yard:
        yield yard


def served(yard: Yard, folder: Path) -> str:
    """A running test on an endpoint with a monitor, in which two customers were served and their outcomes told."""
    (folder / "models.py").write_text(MODEL)
    (folder / "train.csv").write_text("x\n" + "5\n6\n" * 20)
    yard.serving.configure("e", {"trusted_code": True})
    for version in ("v1.0.0", "v2.0.0"):
        yard.serving.install("e", "m", version, f"{folder / 'models.py'}:Above", "python")
        yard.monitoring.set_reference(f"m:{version}", folder / "train.csv")
    test = yard.ab_tests.create_test("T", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0")
    yard.ab_tests.start_test(test.test_id)
    yard.serving.apply(yard.ab_tests.traffic(test.test_id, "e"))

    async def ask() -> None:
        for number, unit in enumerate((WHO, WHO, "customer-18")):
            asked = PredictionRequest(request_id=f"r{number}", endpoint_id="e", features={"x": 5.0}, unit=unit)
            await yard.serving.predict(asked)

    asyncio.run(ask())
    yard.serving.close()  # a segment that a process appends to goes when that is closed, some minutes later
    yard.serving.record_outcomes("e", [{"request_id": f"r{number}", "outcome": number % 2} for number in range(3)])
    return str(test.test_id)


def arms(yard: Yard, test_id: str) -> dict[str, Any]:
    found: dict[str, Any] = yard.ab_tests.analyze_test(test_id)["variants"]
    return found


def test_one_call_forgets_a_person_everywhere_and_says_where(yard: Yard, tmp_path: Path) -> None:
    test_id = served(yard, tmp_path)
    yard.features.define_feature("amount", "customer", FeatureType.FLOAT)
    yard.features.write_rows("customer", [{"customer": "c17", "event_timestamp": "2026-01-01", "amount": 9.5}])
    yard.audit.log_event(EventType.DATA_ACCESSED, "file", "f7", user="ana", subject=WHO, details={"of": WHO})
    before, quality = arms(yard, test_id), [yard.monitoring.performance(f"m:v{n}.0.0").accuracy for n in (1, 2)]
    found = yard.audit.erase_subject(WHO, also=["c17"], user="dpo@example.org", reason="Art. 17")
    assert (found.events, dict(found.removed)) == (
        1,
        {
            "rows of units in A/B tests": 3,  # the unit, and its two results
            "features of customer": 1,
            "predictions in monitors": 2,
            "logged rows of e": 2,
            "outcomes of e": 2,
        },
    )
    assert arms(yard, test_id) == before
    assert [yard.monitoring.performance(f"m:v{n}.0.0").accuracy for n in (1, 2)] == quality
    assert [row["request_id"] for row in yard.serving.payload_rows("e")] == ["r2"]
    with yard.store.reading() as rows:
        (told,) = rows.all("SELECT details FROM events WHERE event_type = 'subject_erased'")
    assert '"outcomes of e":2' in told["details"]
    with pytest.raises(NotFound, match="Nothing is kept of that person"):
        yard.audit.erase_subject(WHO, user="dpo@example.org", reason="Art. 17")
    assert yard.audit.verify().ok
    yard.close()
    traces = (WHO.encode(), key(test_id, WHO).encode(), bytes.fromhex(key(test_id, WHO))[:8][::-1])
    files = [path.read_bytes() for path in (tmp_path / "yard").rglob("*") if path.is_file()]
    assert not [trace for trace in traces if any(trace in data for data in files)]


def test_a_person_whom_no_event_is_about_is_erased_with_an_event_that_names_nobody(yard: Yard) -> None:
    test = yard.ab_tests.create_test("T", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0")
    yard.ab_tests.start_test(test.test_id)
    arm = yard.ab_tests.get_variant(test.test_id, WHO)
    yard.ab_tests.record_request(test.test_id, arm, success=True, unit_id=WHO, result_id="r")
    found = yard.audit.erase_subject(WHO, user="dpo@example.org", reason="Art. 17")
    assert (found.events, found.key, sum(found.removed.values())) == (0, "", 2)
    assert arms(yard, test.test_id)[arm]["units"] == 1
    with pytest.raises(NotFound, match="counted no result"):
        yard.ab_tests.correct_result(test.test_id, "r", success=False, reason="?")
    assert yard.audit.verify().ok


def test_of_a_person_under_a_legal_hold_nothing_goes_anywhere(yard: Yard) -> None:
    test = yard.ab_tests.create_test("T", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0")
    yard.ab_tests.start_test(test.test_id)
    yard.ab_tests.record_request(test.test_id, yard.ab_tests.get_variant(test.test_id, "u"), success=True, unit_id="u")
    yard.ab_tests.analyze_test(test.test_id)
    yard.audit.log_event(EventType.DATA_ACCESSED, "file", "f7", user="ana", subject=WHO, details={})
    yard.audit.legal_hold("subject", WHO, user="counsel", reason="case 7")
    with pytest.raises(Conflict, match="legal hold"):
        yard.audit.erase_subject("u", also=[WHO], user="dpo@example.org", reason="Art. 17")
    with yard.store.reading() as rows:
        assert len(rows.all("SELECT 1 FROM ab_parts")) == 1


def test_a_process_that_goes_on_recording_keeps_nothing_of_a_forgotten_unit(tmp_path: Path) -> None:
    """Its journal is its own, and stays; what another process has folded of it is overwritten."""
    with Yard(tmp_path) as recording, Yard(tmp_path) as erasing:
        tests = recording.ab_tests
        test = tests.create_test("T", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0", strategy="random")
        tests.start_test(test.test_id)
        tests.record_request(test.test_id, "control", success=True, unit_id=WHO)
        tests.record_request(test.test_id, "control", success=True, unit_id="u2")
        erasing.audit.erase_subject(WHO, user="dpo@example.org", reason="Art. 17")
        (journal,) = (tmp_path / "ab_testing").glob("*.journal")
        assert key(test.test_id, WHO).encode() not in journal.read_bytes()
        tests.record_request(test.test_id, "control", success=True, unit_id="u2")
        assert arms(erasing, test.test_id)["control"]["requests"] == 3
