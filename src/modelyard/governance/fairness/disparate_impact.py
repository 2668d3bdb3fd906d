"""Disparate impact: the smallest ratio of two groups' rates of positive predictions; the four-fifths rule asks for 0.8."""

from modelyard.governance.fairness.gap import RateRatio
from modelyard.governance.values import BiasType

METRIC = RateRatio(kind=BiasType.DISPARATE_IMPACT, rates=("selection_rate",))
