"""An MLflow server, file store or SQLite database, brought over: `import_` reads it, writes what is missing, and counts both.

MLflow itself is not needed.
"""

from modelyard.portable.mlflow.counting import Brought, Count
from modelyard.portable.mlflow.importing import import_

__all__ = ["Brought", "Count", "import_"]
