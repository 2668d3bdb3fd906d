"""One strategy a file. Each has `plan(shares) -> steps`; the state machine that walks the steps is common to all."""
