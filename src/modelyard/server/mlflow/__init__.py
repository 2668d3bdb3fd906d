"""MLflow's tongue: the unmodified MLflow client tracks runs and registers models here, with its tracking URI set to us."""
