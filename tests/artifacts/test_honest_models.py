"""Real models come in, in every form that their libraries save them in."""

from __future__ import annotations

import io

import honest_models

from modelyard.artifacts.admission import inspect


def test_every_real_model_comes_in() -> None:
    found = {name: inspect(io.BytesIO(data), len(data)) for name, data in honest_models.files()}
    refused = {name: one.unsafe for name, one in found.items() if one.unsafe}
    assert not refused
    assert len({name.partition(",")[0] for name in found}) >= 50, "that many different models"
    assert len({one.format for one in found.values()}) >= 15, "of that many formats"
