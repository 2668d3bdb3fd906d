"""Write src/modelyard/storage/schema.sql anew: what the revisions make of an empty SQLite file."""

from modelyard.storage.schema import keep

keep()
