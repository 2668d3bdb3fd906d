"""A Yard hands its online store's place on to the feature store."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.features import FeatureType


@pytest.mark.redis
def test_features_of_a_yard_are_read_from_the_redis_it_names(tmp_path: Path, redis_url: str) -> None:
    row = {"card": "c1", "event_timestamp": "2026-01-01T00:00:00Z", "amount": 9.5}
    with Yard(tmp_path / "yard", online=redis_url) as yard:
        yard.features.define_feature("amount", "card", FeatureType.FLOAT)
        yard.features.write_rows("card", [row])
        assert yard.features.get_online_features(["c1"], ["amount"]).to_dict()["amount"] == [9.5]
    assert not (tmp_path / "yard" / "online.db").exists()
