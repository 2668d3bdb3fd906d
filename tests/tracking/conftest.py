"""Trackers on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelyard.core.work import Store
from modelyard.tracking import ExperimentTracker

BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=BOTH)
def tracker(request, tmp_path) -> Iterator[ExperimentTracker]:
    """A tracker in an empty store."""
    place = tmp_path if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    tracker = ExperimentTracker(Store.at(place, files=tmp_path))
    yield tracker
    tracker.close()


@pytest.fixture(scope="module", params=BOTH)
def shared(request, tmp_path_factory) -> Iterator[ExperimentTracker]:
    """A tracker for a whole module's tests; each makes an experiment or run of its own."""
    files = tmp_path_factory.mktemp("tracking")
    if request.param == "sqlite":
        yield ExperimentTracker(files)
        return
    server, migrated = request.getfixturevalue("postgres_server"), request.getfixturevalue("_migrated")
    name = server.new_database(migrated)
    tracker = ExperimentTracker(Store.at(server.url(name), files=files))
    yield tracker
    tracker.close()
    server.drop_database(name)
