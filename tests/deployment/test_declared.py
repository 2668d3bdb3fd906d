"""Rollouts from files: read strictly, applied as often as one likes, amended only where that is sound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventType
from modelyard.core.work import event_from_row
from modelyard.deployment import DeploymentStatus
from modelyard.deployment.files import read_rollout

FILE = """\
endpoint: fraud
version: v2.0.0
baseline: v1.0.0
strategy: canary
steps:
  - {share: 5%, units: 300, seconds: 10m, gate: true}
  - share: 0.25
    seconds: 90
  - 100%
margin: 2%
minimum_units: 200
"""


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "rollout.yaml"

    def write(text=FILE):
        path.write_text(text)
        return path

    return write


def kinds(manager):
    with manager.store.reading() as rows:
        return [event_from_row(row).event_type for row in rows.all("SELECT * FROM events ORDER BY position")]


def test_each_step_has_its_own_share_minima_and_gate(manager, written):
    made = manager.apply(written())
    first, second, last = made.steps
    assert (first.share, first.minimum_units, first.minimum_seconds, first.gate) == (0.05, 300, 600.0, True)
    assert (second.share, second.minimum_units, second.minimum_seconds, second.gate) == (0.25, None, 90.0, False)
    assert last.share == 1.0
    assert made.terms.margin == 0.02


def test_the_minima_of_the_step_it_is_in_hold_and_those_of_others_do_not(manager, written, counts, clock):
    made = manager.apply(written(FILE.replace(", gate: true", "")))
    good = counts(made, (19_000, 0), (1_000, 0))
    assert manager.advance(made.deployment_id, good).reasons[0] == "not enough time: 0 of 600 seconds in this step"
    clock.advance(600)
    few = counts(made, (5_500, 0), (299, 0))
    assert manager.advance(made.deployment_id, few).reasons[0] == "not enough evidence: 299 of 300 units"
    assert manager.advance(made.deployment_id, good).verdict.value == "promote"
    second = manager.get_deployment(made.deployment_id)
    clock.advance(89)
    assert (
        manager.advance(made.deployment_id, counts(second, (3_000, 0), (1_000, 0)))
        .reasons[0]
        .endswith("89 of 90 seconds in this step")
    )


def test_applying_a_file_again_changes_nothing_and_tells_nobody(manager, written):
    path = written()
    first = manager.apply(path)
    before = kinds(manager)
    assert manager.diff(path).verdict == "unchanged"
    assert manager.apply(path) == first
    manager.promote(first.deployment_id)
    manager.promote(first.deployment_id)
    assert manager.get_deployment(first.deployment_id).status is DeploymentStatus.COMPLETED
    assert manager.apply(path).deployment_id == first.deployment_id
    assert kinds(manager)[: len(before)] == before
    assert kinds(manager).count(EventType.DEPLOYMENT_STARTED) == 1


def test_a_version_that_was_taken_back_does_not_return_because_a_job_runs_again(manager, written):
    path = written()
    first = manager.apply(path)
    manager.rollback(first.deployment_id, reason="errors in Norway")
    assert manager.diff(path).verdict == "refused"
    with pytest.raises(Conflict, match="errors in Norway"):
        manager.apply(path)
    manager.start("fraud", "v3.0.0", strategy="direct")  # by hand, meanwhile
    assert manager.diff(path).deployment_id == first.deployment_id
    with pytest.raises(Conflict, match="errors in Norway"):
        manager.apply(path)
    assert manager.apply(path, again=True).deployment_id != first.deployment_id


def test_what_later_decisions_rest_on_can_be_amended_under_way(manager, written, counts, clock):
    made = manager.apply(written())
    path = written(FILE.replace("10m, gate: true", "5m").replace("seconds: 90", "seconds: 60"))
    found = manager.diff(path)
    assert found.verdict == "amend"
    assert [str(change) for change in found.changes] == [
        "steps[0]: 5 %, 300 units, 600 s, gate -> 5 %, 300 units, 300 s",
        "steps[1]: 25 %, 90 s -> 25 %, 60 s",
    ]
    amended = manager.apply(path)
    assert amended.generation == made.generation
    assert kinds(manager)[-1] is EventType.DEPLOYMENT_AMENDED
    assert manager.history(made.deployment_id)[-1].reasons[0].startswith("amended: steps[0]")
    clock.advance(300)
    assert manager.advance(made.deployment_id, counts(made, (19_000, 0), (1_000, 0))).verdict.value == "promote"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("5%", "10%", r"steps\[0\]"),
        ("margin: 2%", "margin: 2%\nalpha: 0.01", "alpha"),
        ("strategy: canary", "strategy: rolling", "strategy"),
        ("baseline: v1.0.0", "baseline: v1.1.0", "baseline"),
    ],
)
def test_what_the_running_guard_rests_on_cannot_change(manager, written, old, new, key):
    manager.apply(written())
    path = written(FILE.replace(old, new))
    assert manager.diff(path).verdict == "refused"
    with pytest.raises(Conflict, match=key):
        manager.apply(path)


@pytest.mark.parametrize(("old", "new", "key"), [("[100%]", "[50%]", r"steps\[0\]"), ("0.1", "0.2", "tolerance")])
def test_what_the_running_copies_rest_on_cannot_change(manager, written, old, new, key):
    text = "endpoint: fraud\nversion: v2.0.0\nbaseline: v1.0.0\nstrategy: shadow\nsteps: [100%]\ntolerance: 0.1\n"
    manager.apply(written(text))
    with pytest.raises(Conflict, match=key):
        manager.apply(written(text.replace(old, new)))


def test_trying_a_file_leaves_nothing_behind_and_tells_what_it_would_do(manager, written):
    path = written()
    found = manager.diff(path)
    assert (found.verdict, [str(change) for change in found.changes][:3]) == (
        "start",
        [
            "version: fraud:v1.0.0 -> fraud:v2.0.0",
            "strategy: None -> canary",
            "steps[0]: None -> 5 %, 300 units, 600 s, gate",
        ],
    )
    assert manager.list_deployments() == []
    assert kinds(manager) == []
    made = manager.apply(path)
    other = manager.diff(written(FILE.replace("v2.0.0", "v3.0.0")))
    assert (other.verdict, made.deployment_id in other.reason) == ("refused", True)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("endpoint: fraud", "endpont: fraud", "line 1, endpont: unknown key. Did you mean endpoint"),
        ("version: v2.0.0", "version: 2.0", "line 2, version: '2.0' is read as float"),
        ("version: v2.0.0\n", "", "does not say which version"),
        ("canary", "canry", "line 4, strategy: There is no strategy 'canry'. Did you mean canary"),
        ("units: 300", "unit: 300", r"line 6, steps\[0\].unit: unknown key. Did you mean units"),
        ("units: 300", "units: 0", "line 5, steps: minimum_units is 0"),
        ("seconds: 90", "seconds: soon", r"line 8, steps\[1\].seconds: 'soon' is no duration"),
        ("share: 0.25", "share: 0.02", "line 5, steps: The steps 0.05, 0.02, 1 must rise"),
        ("share: 0.25", "gate: false", r"line 7, steps\[1\]: does not say which share"),
        ("margin: 2%", "margin: 200%", "line 10, margin: margin 2.0 must lie between 0 and 1"),
        ("margin: 2%", "margin: .nan", "line 10, margin: '.nan' is no number"),
        ("margin: 2%", "margin: [1]", "line 10, margin: give one value"),
        ("margin: 2%", "version: v3.0.0", "line 10, version: stands there twice, first in line 2"),
        ("minimum_units: 200", "minimum_units: 1.5", "line 11, minimum_units: '1.5' is no whole number"),
        ("minimum_units: 200", "minimum_units: true", "line 11, minimum_units: 'true' is no number"),
        ("minimum_units: 200", "freeze: [Friday]", "line 11, freeze: 'Friday' is no window"),
        ("minimum_units: 200", "latency_ms: {p96: 1}", "line 11, latency_ms: latency_ms has an unknown quantile"),
        ("minimum_units: 200", "? [a]\n: 1", r"line 11, \?: a key is a word"),
        ("minimum_units: 200", "minimum_units: !!python/name:os.system", "cannot be read|is no number|no whole"),
        ("100%", "[" * 3000, "is no YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_line_and_key(written, old, new, told):
    with pytest.raises(Invalid, match=told):
        read_rollout(written(FILE.replace(old, new)))


@given(st.text(max_size=200))
def test_no_text_at_all_breaks_the_reader(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, "utf-8", errors="surrogatepass")
    with pytest.raises(Invalid):
        read_rollout(path)
