"""An experiment that serving splits traffic for has one analysis: that of the A/B tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.core.errors import NotFound
from modelyard.serving import ModelFramework


def test_what_serving_counts_is_what_the_ab_test_analyses(tmp_path: Path, small_model: Path) -> None:
    async def split(yard: Yard) -> None:
        names = [
            await yard.serving.deploy_model("m", version, small_model, ModelFramework.LIGHTGBM)
            for version in ("v1.0.0", "v2.0.0")
        ]
        yard.serving.create_ab_test("v1_vs_v2", names[0], [names[1]], {names[0]: 0.7, names[1]: 0.3})
        for number in range(300):
            row = {"a": float(number), "b": 0.0, "c": 0.0}
            await yard.serving.predict_with_ab_test("v1_vs_v2", row, unit=f"user-{number}")

    with Yard(tmp_path / "yard") as yard:
        asyncio.run(split(yard))
        counted = yard.serving.get_ab_test_results("v1_vs_v2")["results"]
        for _ in range(2):  # reading twice counts nothing twice
            analysis = yard.analyze_experiment("v1_vs_v2")
        assert analysis["control"]["requests"] == counted["m-v1.0.0"]["requests"]
        assert analysis["treatment"]["requests"] == counted["m-v2.0.0"]["requests"]
        assert analysis["control"]["requests"] + analysis["treatment"]["requests"] == 300
        assert analysis["control"]["model"] == "m:v1.0.0"
        assert not analysis["statistically_significant"]
        with pytest.raises(NotFound, match="v1_vs_v2"):
            yard.analyze_experiment("v1_vs_v3")
