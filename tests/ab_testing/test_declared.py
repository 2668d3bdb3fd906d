"""Experiments from files: read strictly, applied as often as one likes, amended only where no analysis comes to lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.ab_testing import ABTestManager
from modelyard.ab_testing.files import KEYS, read_experiment
from modelyard.core.errors import Conflict, Invalid, Unavailable
from modelyard.core.events import EventType
from modelyard.core.work import event_from_row

FILE = """\
name: Ranking
unit: user
control: ranker:v1.0.0
variants:
  - {name: bigger, version: v2.0.0, share: 30%}
  - name: smaller
    version: ranker:v3.0.0
    share: 0.2
metrics:
  - {name: spent, kind: mean, role: goal, covariate: spent_before}
  - {name: slow, numerator: latency, quantile: 0.95, role: guardrail, margin: 25%}
planned_units: 4_000
description: after the summer
"""


@pytest.fixture
def manager(tmp_path):
    return ABTestManager(tmp_path / "yard")


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "experiment.yaml"

    def write(text=FILE):
        path.write_text(text, "utf-8")
        return path

    return write


def events(manager):
    with manager.store.reading() as rows:
        return [event_from_row(row) for row in rows.all("SELECT * FROM events ORDER BY position")]


def test_a_file_says_what_create_test_takes(manager, written):
    made = manager.apply(written(), created_by="ana@example.org")
    by_hand = manager.create_test(
        "Ranking",
        control_variant="ranker:v1.0.0",
        treatment_variant=["ranker:v2.0.0", "ranker:v3.0.0"],
        treatment_names=["bigger", "smaller"],
        traffic_split=[0.3, 0.2],
        unit="user",
        metrics=[
            {"name": "spent", "kind": "mean", "role": "goal", "covariate": "spent_before"},
            {"name": "slow", "numerator": "latency", "quantile": 0.95, "role": "guardrail", "margin": 0.25},
        ],
        planned_units=4000,
        description="after the summer",
    )
    assert (made.status.value, made.created_by) == ("running", "ana@example.org")
    same = ("name", "unit", "variants", "metrics", "planned_units", "description", "strategy", "inference")
    assert [getattr(made, key) for key in same] == [getattr(by_hand, key) for key in same]
    assert made.shares == {"control": 0.5, "bigger": 0.3, "smaller": 0.2}


@pytest.mark.parametrize(
    ("arms", "shares"),
    [
        ("control: m:v1.0.0\nvariants: [v2.0.0]", [0.5, 0.5]),
        ("control: m:v1.0.0\nvariants: [v2.0.0, v3.0.0, v4.0.0]", [0.25] * 4),
        ("control: {version: m:v1.0.0, share: 80%}\nvariants: [v2.0.0, v3.0.0]", [0.8, 0.1, 0.1]),
        ("control: {version: m:v1.0.0, share: 0.1}\nvariants: [{version: v2.0.0, share: 90%}]", [0.1, 0.9]),
        ("endpoint: m\ncontrol: v1.0.0\nvariants: [v2.0.0]", [0.5, 0.5]),
    ],
)
def test_shares_that_are_not_said_are_what_is_left_evenly(written, arms, shares):
    variants = read_experiment(written(f"name: x\n{arms}\n")).test.variants
    assert [one.share for one in variants] == pytest.approx(shares)
    assert [one.model for one in variants][:2] == ["m:v1.0.0", "m:v2.0.0"]


def test_what_is_to_be_found_may_stand_in_place_of_how_many_units(manager, written):
    text = "name: x\ncontrol: m:v1.0.0\nvariants: [v2.0.0]\nplan: {lift: 5%, base_rate: 10%, looks: 20}\n"
    sizing = manager.plan_test(lift=0.05, base_rate=0.10, looks=20)
    assert manager.apply(written(text)).planned_units == sizing.units
    assert manager.diff(written(text)).verdict == "unchanged"
    by_mean = text.replace("base_rate: 10%", "mean: 20, deviation: 30")
    with pytest.raises(Invalid, match="line 4, plan: the goal success is a rate: give base_rate"):
        manager.apply(written(by_mean))
    goal = "metrics: [{name: spent, kind: mean, role: goal}]\n"
    sizing = manager.plan_test(lift=0.05, mean=20, deviation=30, looks=20)
    assert read_experiment(written(by_mean + goal)).test.planned_units == sizing.units


def test_applying_a_file_again_changes_nothing_and_tells_nobody(manager, written):
    path = written()
    first = manager.apply(path)
    before = events(manager)
    assert manager.diff(path).verdict == "unchanged"
    assert manager.apply(path) == first
    assert events(manager) == before
    manager.conclude_test(first.test_id, winner="bigger", conclusion="more is better")
    assert manager.diff(path).verdict == "unchanged"
    assert manager.apply(path).test_id == first.test_id


def test_trying_a_file_leaves_nothing_behind_and_tells_what_it_would_do_and_where_it_stands(manager, written):
    found = manager.diff(written())
    assert found.verdict == "start"
    assert ("variants.bigger", "ranker:v2.0.0, share 0.3", 5) in [
        (change.key, change.wanted, change.line) for change in found.changes
    ]
    assert ("metrics.slow", 11) in [(change.key, change.line) for change in found.changes]
    assert manager.list_tests() == []
    assert events(manager) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("share: 30%", "share: 35%", r"line 5, variants.bigger.share: 0.3 -> 0.35"),
        ("v2.0.0", "v2.1.0", r"line 5, variants.bigger.model: ranker:v2.0.0 -> ranker:v2.1.0"),
        ("unit: user", "unit: session", "line 2, unit: user -> session"),
        ("4_000", "8000", "line 12, planned_units: 4000 -> 8000"),
        ("margin: 25%", "margin: 50%", "line 11, metrics.slow.margin: 0.25 -> 0.5"),
        ("role: goal, ", "", "line 10, metrics.spent.role: goal -> secondary"),
        (", covariate: spent_before", "", "line 10, metrics.spent.covariate: spent_before ->"),
        ("planned_units: 4_000\n", "", "does not say planned_units: 4000 -> None"),
        ("name: bigger", "name: large", "line 5, variants.large: None ->"),
        ("description: after the summer", "tolerated_loss: 1%", "line 13, tolerated_loss: 0.001 -> 0.01"),
        ("description: after the summer", "holdouts: {year: 5%}", "line 13, holdouts.year: None -> 0.05"),
    ],
)
def test_what_would_make_the_analysis_lie_is_refused_while_it_runs_by_line(manager, written, old, new, told):
    first = manager.apply(written())
    path = written(FILE.replace(old, new))
    assert manager.diff(path).verdict == "refused"
    with pytest.raises(Conflict, match=told) as refused:
        manager.apply(path)
    assert f"stop-test {first.test_id}" in str(refused.value)
    assert manager.list_tests() == [first]
    assert manager.list_holdouts() == []


def test_what_moves_no_unit_out_of_its_arm_can_be_amended_and_is_an_event(manager, written):
    text = "name: x\ncontrol: m:v1.0.0\nvariants: [v2.0.0]\nramp_seconds: 2d\n"
    first = manager.apply(written(text))
    assert (first.strategy.value, first.ramp_seconds) == ("ramp", 172_800)
    path = written(text.replace("2d", "36h") + "description: sooner\n")
    assert [(change.key, change.line) for change in manager.diff(path).changes] == [
        ("description", 5),
        ("ramp_seconds", 4),
    ]
    amended = manager.apply(path, created_by="ana@example.org")
    assert (amended.ramp_seconds, amended.description, amended.test_id) == (129_600, "sooner", first.test_id)
    assert manager.get_test(first.test_id) == amended
    last = events(manager)[-1]
    assert (last.event_type, last.actor) == (EventType.AB_TEST_AMENDED, "ana@example.org")
    assert [change["key"] for change in last.details["changes"]] == ["description", "ramp_seconds"]
    with pytest.raises(Conflict, match="line 4, ramp_seconds"):
        manager.apply(written(text.replace("2d", "3d")))  # units would leave the treatment


def test_versions_that_were_compared_are_compared_once_more_only_if_that_is_said(manager, written):
    first = manager.apply(written())
    manager.stop_test(first.test_id, reason="a bug in Norway")
    longer = written(FILE.replace("4_000", "8_000"))
    with pytest.raises(Conflict, match=r"bug in Norway.*--again"):
        manager.apply(longer)
    second = manager.apply(longer, again=True)
    assert (second.test_id != first.test_id, second.planned_units) == (True, 8000)
    manager.stop_test(second.test_id)
    assert manager.apply(written(FILE.replace("v3.0.0", "v4.0.0"))).test_id not in (first.test_id, second.test_id)


def test_a_draft_of_the_name_becomes_what_the_file_says_and_starts(manager, written):
    draft = manager.create_test("Ranking", control_variant="ranker:v1.0.0", treatment_variant="ranker:v2.0.0")
    assert manager.diff(written()).test_id == draft.test_id
    started = manager.apply(written())
    assert (started.test_id, started.created_at) == (draft.test_id, draft.created_at)
    assert started.shares == {"control": 0.5, "bigger": 0.3, "smaller": 0.2}
    assert manager.get_test(draft.test_id) == started
    assert manager.diff(written()).verdict == "unchanged"


def test_a_holdout_that_the_test_begins_under_is_made_and_never_moved(manager, written):
    text = "name: x\ncontrol: m:v1.0.0\nvariants: [v2.0.0]\nholdouts: {2026: 5%}\n"
    made = manager.apply(written(text))
    assert [(held.name, held.share) for held in made.holdouts] == [("2026", 0.05)]
    assert manager.diff(written(text)).verdict == "unchanged"
    assert manager.list_holdouts() == list(made.holdouts)
    other = text.replace("name: x", "name: y")
    assert manager.apply(written(other)).holdouts == made.holdouts
    with pytest.raises(Conflict, match=r"2026 has the share 0\.05, and not 0\.1"):
        manager.apply(written(text.replace("name: x", "name: z").replace("5%", "10%")))


def test_a_group_without_room_refuses_a_file_before_and_when_it_is_applied(manager, written):
    text = "name: x\ncontrol: m:v1.0.0\nvariants: [v2.0.0]\nexclusive_group: search\ngroup_share: 60%\n"
    manager.apply(written(text))
    path = written(text.replace("name: x", "name: y"))
    assert "no room" in manager.diff(path).reason
    with pytest.raises(Conflict, match="no room"):
        manager.apply(path)
    assert len(manager.list_tests()) == 1


def test_the_guard_of_an_endpoint_is_told_in_the_file(manager, written):
    text = "name: x\nendpoint: m\ncontrol: v1.0.0\nvariants: [v2.0.0]\nguard: {alpha: 0.5%, latency_margin: 50%}\n"
    made = manager.apply(written(text))
    assert (made.endpoint, made.guard_alpha, made.latency_margin) == ("m", 0.005, 0.5)
    with pytest.raises(Conflict, match="line 5, guard_alpha"):
        manager.apply(written(text.replace("0.5%", "1%")))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: Ranking\n", "", "does not say which name"),
        ("name: Ranking", "nam: Ranking", "line 1, nam: unknown key. Did you mean name"),
        ("name: Ranking", "name: 2026-01-01", "line 1, name: '2026-01-01' is read as date"),
        ("name: Ranking", "name: ''", "line 1, name: '' is read as str"),
        ("name: Ranking", 'name: "a\\nb"', "line 1, name: name is .* in one line"),
        ("name: Ranking", 'name: "\\e[2J"', "line 1, name: name is .* in one line"),
        ("unit: user", "unit: [user]", "line 2, unit: give one value"),
        ("control: ranker:v1.0.0", "control: ranker", "line 3, control: ranker is a version of which model"),
        ("control: ranker:v1.0.0", "control: 'ranker:'", "line 3, control: 'ranker:' names no model version"),
        ("control: ranker:v1.0.0", "control: {share: 50%}", "line 3, control: does not say which version"),
        (
            "control: ranker:v1.0.0",
            "control: {version: ranker:v1.0.0, share: 60%}",
            "line 4, variants: .* add up to 1.1",
        ),
        ("share: 30%", "share: 90%", "line 4, variants: the shares 0.9 . 0.2 add up to 1.1"),
        ("share: 30%", "share: -30%", r"line 5, variants\[0\].share: '-30%' is no number"),
        (", share: 30%", "", "line 4, variants: say a share for each variant, or for none"),
        (", share: 30%", ", weight: 30%", r"line 5, variants\[0\].weight: unknown key. Known: name, share, version"),
        ("name: smaller", "name: bigger", r"line 6, variants\[1\].name: there is a variant bigger already"),
        ("name: smaller", "name: no", r"line 6, variants\[1\].name: 'no' is read as bool. Give text, in quotes"),
        ("name: smaller", "name: control", r"line 6, variants\[1\].name: A treatment cannot be called control"),
        ("name: smaller", "name: größer", r"line 6, variants\[1\].name: 'größer' is no variant name"),
        ("version: v2.0.0", "version: 2.0", r"line 5, variants\[0\].version: '2.0' is read as float"),
        ("kind: mean", "kind: mode", r"line 10, metrics\[0\]: The metric 'spent' has the kind 'mode'"),
        ("covariate: ", "covarate: ", r"line 10, metrics\[0\].covarate: unknown key. Did you mean covariate"),
        ("margin: 25%", "margin: 125%", r"line 11, metrics\[1\]: The metric 'slow' must have a margin between 0 and 1"),
        ("margin: 25%", "margin: wide", r"line 11, metrics\[1\].margin: 'wide' is no number"),
        ("name: slow", "name: spent", "line 9, metrics: The metric 'spent' is planned twice"),
        ("4_000", "1", "line 12, planned_units: planned_units is 1; a test compares at least two"),
        ("4_000", "4000.5", "line 12, planned_units: '4000.5' is no whole number"),
        ("4_000", "0100", "line 12, planned_units: '0100' is no number"),
        ("4_000", "1:30", "line 12, planned_units: '1:30' is no number"),
        ("4_000", "9" * 30, "line 12, planned_units: planned_units is 9+; it must be a number"),
        ("4_000", "9" * 5000, "line 12, planned_units: .*is no number"),
        ("4_000", "many", "line 12, planned_units: 'many' is no number"),
        ("description: after the summer", "inference: baysian", "line 13, inference: .* Did you mean bayesian"),
        ("description: after the summer", "inference: bayesian", "line 1[23], .*planned_units does not go with"),
        ("description: after the summer", "prior: [1, 2]", "line 13, prior: A prior goes with the inference bayesian"),
        ("description: after the summer", "group_share: 50%", "line 13, group_share: .* together with the name"),
        ("description: after the summer", "ramp_seconds: soon", "line 13, ramp_seconds: 'soon' is no duration"),
        ("description: after the summer", "strategy: ramp", "line 13, strategy: ramp_seconds above 0 and"),
        ("description: after the summer", "holdouts: [2026]", "line 13, holdouts: give shares by name"),
        (
            "description: after the summer",
            "guard: {alpha: 1%}",
            "line 13, guard: it watches the traffic of an endpoint",
        ),
        (
            "description: after the summer",
            "plan: {lift: 5%, mean: 1, deviation: 1}",
            "line 13, plan: planned_units says",
        ),
        ("description: after the summer", "name: Other", "line 13, name: stands there twice, first in line 1"),
        ("description: after the summer", "<<: {a: 1}", "line 13, <<: merging is not read here"),
        (
            "description: after the summer",
            "description: !!python/name:os.system",
            "line 13, description: .* cannot be read",
        ),
        ("description: after the summer", "? [a]\n: 1", r"line 13, \?: a key is a word"),
        (
            "description: after the summer",
            "endpoint: search\nramp_seconds: 1d",
            "line 14, ramp_seconds: leaves units out",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_line_and_key(written, old, new, told):
    with pytest.raises(Invalid, match=told):
        read_experiment(written(FILE.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no experiment"),
        ("# nothing\n", "holds no experiment"),
        ("- name: x\n", "holds no experiment"),
        ("name: x\n---\nname: y\n", "is no YAML"),
        ("name: [" * 2000, "is no YAML"),
        ("name: x\nvariants: &a [*a]\ncontrol: m:v1.0.0\n", r"variants\[0\]: give"),
        ("name: x\nvariants: []\ncontrol: m:v1.0.0\n", "line 2, variants: lists no variant"),
        ("name: " + "x" * 200_000, "larger than 100,000 bytes"),
        ("name: " + "é" * 60_000, "larger than 100,000 bytes"),
    ],
)
def test_a_file_that_is_none_says_so(written, text, told):
    with pytest.raises(Invalid, match=told):
        read_experiment(written(text))


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(Unavailable, match="No such file"):
        read_experiment(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(Invalid, match="no UTF-8 text"):
        read_experiment(tmp_path / "latin.yaml")


def test_what_stands_once_may_be_named_again_and_any_script_is_text(written):
    text = FILE.replace("name: Ranking", "name: Größe 大").replace("version: v2.0.0", "version: &new v2.0.0")
    read = read_experiment(written(text.replace("ranker:v3.0.0", "*new"))).test
    assert (read.name, [one.model for one in read.treatments]) == ("Größe 大", ["ranker:v2.0.0", "ranker:v2.0.0"])


def test_json_is_read_as_well_as_yaml(written):
    text = '{"name": "x", "control": "m:v1.0.0", "variants": ["v2.0.0"], "planned_units": 4e3, "horizon": 500}'
    with pytest.raises(Invalid, match="'4e3' is no whole number"):
        read_experiment(written(text))
    assert read_experiment(written(text.replace("4e3", "4000"))).test.planned_units == 4000


def test_a_metric_is_named_by_text_wherever_it_is_told(manager):
    arms = {"control_variant": "m:v1.0.0", "treatment_variant": "m:v2.0.0"}
    with pytest.raises(Invalid, match="has 5 as its covariate; give the name"):
        manager.create_test("x", **arms, metrics=[{"name": "spent", "kind": "mean", "covariate": 5}])
    with pytest.raises(Invalid, match=r"traffic_split .* must leave each arm a share"):
        manager.create_test("x", **arms, traffic_split=["half"])
    for key in ("planned_units", "horizon", "group_share", "round_units"):
        with pytest.raises(Invalid, match=f"{key} is 'many'; it must be a number"):
            manager.create_test("x", **arms, **{key: "many"})


@given(st.text(max_size=200))
def test_no_text_at_all_breaks_the_reader(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any-experiment.yaml"
    path.write_text(text, "utf-8", errors="surrogatepass")
    with pytest.raises(Invalid):
        read_experiment(path)


@given(
    st.sampled_from(KEYS),
    st.sampled_from(["null", "[]", "{}", "no", "-1", "0", ".inf", "x", "[x]", "{x: y}", "50%", "1d"]),
)
def test_no_value_of_any_key_breaks_the_reader(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "odd-experiment.yaml"
    said = {"name": "x", "control": "m:v1.0.0", "variants": "[v2.0.0]", key: value}
    path.write_text("".join(f"{name}: {one}\n" for name, one in said.items()))
    told = "line "
    try:
        read_experiment(path)
    except Invalid as error:
        told = str(error)
    assert "line " in told
