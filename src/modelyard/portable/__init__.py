"""A yard as plain files that any program can read, and back: `Yard.export` and `Yard.import_`."""

from modelyard.portable.arriving import Imported, import_
from modelyard.portable.leaving import Exported, export

__all__ = ["Exported", "Imported", "export", "import_"]
