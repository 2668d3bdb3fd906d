"""A governance area on a fresh folder, with a clock that stands still."""

from datetime import UTC, datetime

import pytest

from modelyard.core.instants import FixedClock
from modelyard.governance import GovernanceManager


@pytest.fixture
def clock():
    return FixedClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def gov(tmp_path, clock):
    return GovernanceManager(tmp_path / "yard", clock=clock)


@pytest.fixture
def known(gov):
    """One dataset with personal data, one model trained on it."""
    gov.register_dataset("train_001", "Training data", "card payments", contains_pii=True, created_by="ann")
    gov.register_model("fraud", "v1.0.0", "train_001", training_algorithm="RandomForest", created_by="ann")
    return gov


@pytest.fixture
def emit(gov):
    """Write an event as another area would."""
    from modelyard.core.refs import Resource

    def write(event_type, kind, name, details=None, actor="bob"):
        with gov.store.work(actor) as work:
            return work.emit(event_type, Resource(kind, name), details or {})

    return write
