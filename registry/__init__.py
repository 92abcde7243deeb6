"""What happened: typed records, content-addressed storage, the stage cache and the MLflow backend."""
