"""The schema's history, one Alembic revision a file. Forward only: a backup is the way back."""
