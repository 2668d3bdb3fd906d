"""What a walk over the log finds wrong, by leaf."""

from __future__ import annotations

MOST_PROBLEMS = 100


class Findings:
    """The problems found so far, in words. A checkpoint that fits clears the suspicion of the leaves before it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.first_bad: int | None = None
        self.suspect: int | None = None  # the first bad leaf since the last checkpoint that fitted
        self.named = -1  # the highest leaf that was called bad

    def bad(self, index: int | None, words: str) -> None:
        """Note what is wrong with a leaf, or beside the leaves where it is of none."""
        if index is None:
            self.problems.append(words)
            return
        index = max(index, 0)
        self.named = max(self.named, index)
        self.first_bad = index if self.first_bad is None else min(self.first_bad, index)
        self.suspect = index if self.suspect is None else self.suspect
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"leaf {index}: {words}")
