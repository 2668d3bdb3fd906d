"""Equalized odds: the worse of the differences in true- and false-positive rates (Hardt, Price & Srebro 2016)."""

from modelyard.governance.fairness.gap import RateGap
from modelyard.governance.values import BiasType

METRIC = RateGap(kind=BiasType.EQUALIZED_ODDS, rates=("tpr", "fpr"))
