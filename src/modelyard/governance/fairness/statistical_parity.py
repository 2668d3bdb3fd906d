"""Statistical parity: the largest difference between groups' rates of positive predictions (Dwork et al. 2012)."""

from modelyard.governance.fairness.gap import RateGap
from modelyard.governance.values import BiasType

METRIC = RateGap(kind=BiasType.STATISTICAL_PARITY, rates=("selection_rate",))
