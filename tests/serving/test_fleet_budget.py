"""Servers that judge together, each a little behind the others or cut off from them, take a good version back no more often
than one server that sees everything may."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelyard.core.traffic import known_part
from modelyard.stats.eprocess import RATES, factors, log_e_value

ALPHA = 0.05
TURN = 5  # looks between two turns of a server


def log_e(canary: np.ndarray, baseline: np.ndarray, share: float) -> np.ndarray:
    """`stats.eprocess.log_e_value` of arrays."""
    each = zip(RATES, factors(RATES, share), strict=True)
    logs = np.array([math.log(bet.weight) + canary * up + baseline * down for bet, ((up, down),) in each])
    top = logs.max(axis=0)
    found: np.ndarray = top + np.log(np.exp(logs - top).sum(axis=0))
    return found


def taken_back(canary: np.ndarray, baseline: np.ndarray, share: float, cut: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Which of the rollouts go back, by failures of shape (rollouts, servers, looks). In the looks `cut` none is heard of."""
    servers, looks = canary.shape[1:]
    totals = [arm.cumsum(axis=-1) for arm in (canary, baseline)]
    at = np.arange(looks)
    heard = np.where((at >= cut[0]) & (at < cut[1]), max(cut[0] - 1, 0), at)
    told = [
        (heard - server) // TURN * TURN + server for server in range(servers)
    ]  # the last look that a server told of
    known = [
        np.stack([np.where(when >= 0, arm[:, server, when], 0) for server, when in enumerate(told)], 1)
        for arm in totals
    ]
    all_know = [arm.sum(axis=1) for arm in known]
    found = (log_e(*all_know, share) >= -math.log(ALPHA * known_part(servers))).any(axis=-1)
    for server in range(servers):
        seen = [
            every - arm[:, server] + own[:, server] for every, arm, own in zip(all_know, known, totals, strict=True)
        ]
        part = (1 - known_part(servers)) / servers or 1.0  # one alone has all of it
        found |= (log_e(*seen, share) >= -math.log(ALPHA * part)).any(axis=-1)
    return found


def failures(servers: int, rate: float, part: float, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Failures of canary and baseline in each look of each server; each falls on the canary with a probability."""
    random = np.random.default_rng(seed)
    every = random.poisson(rate, (runs, servers, 400))
    canary = random.binomial(every, part)
    return canary, every - canary


def test_the_arrays_are_judged_as_a_guard_judges() -> None:
    canary, baseline = np.array([0, 3, 40]), np.array([5, 1, 200])
    expected = [log_e_value(k, m, 0.1) for k, m in zip(canary.tolist(), baseline.tolist(), strict=True)]
    assert log_e(canary, baseline, 0.1).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("cut", [(0, 0), (50, 250)], ids=["in touch", "cut off for a while"])
@pytest.mark.parametrize(("servers", "rate", "share"), [(3, 0.1, 0.05), (4, 1.0, 0.25)])
def test_an_equal_version_goes_back_no_more_often_than_alpha(
    servers: int, rate: float, share: float, cut: tuple[int, int]
) -> None:
    canary, baseline = failures(servers, rate, share, runs=300, seed=7)
    found = taken_back(canary, baseline, share, cut).mean()
    assert found <= ALPHA
    alone = np.zeros(300, bool)
    for server in range(servers):  # as they did when each had all of alpha and its own counts
        one = log_e(canary[:, server].cumsum(-1), baseline[:, server].cumsum(-1), share)
        alone |= (one >= -math.log(ALPHA)).any(axis=-1)
    assert found < alone.mean()


def test_a_bad_version_goes_back_on_the_evidence_of_all() -> None:
    canary, baseline = failures(3, 0.05, 0.2, runs=100, seed=8)  # at a share of 5 %
    together = taken_back(canary, baseline, 0.05)
    alone = taken_back(canary[:, :1], baseline[:, :1], 0.05)
    assert together.mean() > 0.8
    assert together.mean() > alone.mean() + 0.2
