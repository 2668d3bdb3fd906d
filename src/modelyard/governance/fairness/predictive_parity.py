"""Predictive parity: the largest difference between groups' precision (Chouldechova 2017)."""

from modelyard.governance.fairness.gap import RateGap
from modelyard.governance.values import BiasType

METRIC = RateGap(kind=BiasType.PREDICTIVE_PARITY, rates=("ppv",))
