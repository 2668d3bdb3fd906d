"""Group fairness: one measure a file, all over the same table of counts."""
