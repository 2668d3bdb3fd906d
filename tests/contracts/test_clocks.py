"""Every clock tells UTC."""

from __future__ import annotations

import pytest

from modelyard.core.instants import EPOCH, FixedClock, SystemClock
from modelyard.core.ports import Clock
from modelyard.testing.contracts import ClockContract


class TestSystem(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()


class TestFixed(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return FixedClock(EPOCH)
