"""Who may do what, against a plain reading of the tables; limits against an exact account."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelyard.access.limits import FORGET, FREE, Bucket, Failures, Limiter, Rate, failed, pause, take
from modelyard.access.rules import EVERY, ROLES, Grant, Identity, may, projects_of
from modelyard.core.operations import operations

PERMISSIONS = sorted({entry.needs for entry in operations()} | {"registry.break_glass", "access.write", "access.read"})
PROJECTS = st.sampled_from([EVERY, "default", "fraud", "risk"])
GRANTS = st.frozensets(st.builds(Grant, st.sampled_from([*ROLES, "nobody"]), PROJECTS), max_size=4)
SCOPES = st.sampled_from(
    [("*.*",), ("*.read",), ("registry.*",), ("registry.read", "features.write"), ("access.write",)]
)
IDENTITIES = st.builds(
    Identity, subject=st.just("a"), owner=st.just("a"), grants=GRANTS, scopes=SCOPES, project=PROJECTS
)


def plainly(identity: Identity, permission: str, project: str) -> bool:
    """The same question, asked the long way."""
    area, verb = permission.split(".")
    if identity.project != EVERY and identity.project != project:
        return False
    scoped = {f"{area}.{verb}", f"{area}.*", f"*.{verb}", "*.*"} & set(identity.scopes)
    roles = {grant.role for grant in identity.grants if grant.project == EVERY or grant.project == project}
    named = {f"{area}.{verb}"} | ({f"*.{verb}"} if area != "access" else set())
    return bool(scoped) and any(named & set(ROLES.get(role, ())) for role in roles)


@given(identity=IDENTITIES, permission=st.sampled_from(PERMISSIONS), project=PROJECTS)
def test_a_permission_is_what_a_role_there_and_a_scope_both_name(
    identity: Identity, permission: str, project: str
) -> None:
    assert may(identity, permission, project) == plainly(identity, permission, project)


@given(identity=IDENTITIES, permission=st.sampled_from(PERMISSIONS), project=PROJECTS)
def test_the_projects_of_somebody_are_those_in_which_they_may(
    identity: Identity, permission: str, project: str
) -> None:
    mine = projects_of(identity, permission)
    assert may(identity, permission, project) == bool(mine & {project, EVERY})


@given(permission=st.sampled_from(PERMISSIONS), project=PROJECTS)
def test_nobody_may_do_anything_without_a_role(permission: str, project: str) -> None:
    assert not may(Identity(subject="a", owner="a"), permission, project)


def test_breaking_glass_is_part_of_no_other_role() -> None:
    for role in set(ROLES) - {"breaker"}:
        holder = Identity(subject="a", owner="a", grants=frozenset({Grant(role)}))
        assert not holder.may("registry.break_glass"), role


@given(
    calls=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    rate=st.builds(Rate, per_second=st.floats(0.1, 20), burst=st.integers(1, 10).map(float)),
)
def test_no_more_pass_than_the_rate_and_the_burst_together(calls: list[float], rate: Rate) -> None:
    bucket: Bucket | None = None
    now, passed = 0.0, 0
    for gap in calls:
        now += gap
        bucket, wait = take(bucket, rate, now)
        passed += not wait
        if wait:
            later, none = take(bucket, rate, now + wait + 1e-6)
            assert none == 0, "the wait that was told is long enough"
            assert later.left < rate.burst
    assert passed <= rate.burst + now * rate.per_second + 1e-6


def test_a_clock_that_jumps_back_opens_no_door_and_closes_none_for_good() -> None:
    rate = Rate(per_second=1, burst=2)
    bucket, _ = take(None, rate, 1000.0)
    bucket, _ = take(bucket, rate, 1000.0)
    bucket, wait = take(bucket, rate, 10.0)
    assert wait == 1.0
    assert take(bucket, rate, 11.5)[1] == 0


def test_the_limits_hold_few_keys() -> None:
    limiter = Limiter(Rate(per_second=1, burst=1), lambda: 0.0, most=100)
    for number in range(1000):
        limiter.wait(str(number))
    assert len(limiter._buckets) == 100


def test_pauses_grow_with_failures() -> None:
    waits, failures = [], None
    for _ in range(FREE + 8):
        failures = failed(failures, 0.0)
        waits.append(pause(failures, 0.0, 60))
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


@given(
    count=st.integers(0, 100),
    at=st.floats(0, 1e9),
    away=st.floats(-1e9, 1e9),
    longest=st.sampled_from([60.0, 900.0]),
)
def test_no_pause_is_longer_than_the_longest_whatever_the_clock_does(
    count: int, at: float, away: float, longest: float
) -> None:
    failures = Failures(count=count, at=at)
    wait = pause(failures, at + away, longest)
    assert 0 <= wait <= longest
    assert wait == 0 or abs(away) <= longest
    assert pause(failures, at + FORGET) == 0 == pause(failures, at - 2 * FORGET)
