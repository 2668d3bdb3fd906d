"""What the arrays of a boosted model's file must fulfil before compiled code follows them.

LightGBM and XGBoost walk a tree's children, features and categories without a look at where they lead. The checks here
read a file's bytes in Python and NumPy alone, before any native parser sees them: admission asks them, and whatever opens
such a file asks them again.
"""

from __future__ import annotations


class OutOfBounds(ValueError):
    """The file's arrays would lead compiled code outside them, or are written as no library writes them."""
