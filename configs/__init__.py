"""What was asked: typed configuration read from YAML. Imports nothing but pydantic and PyYAML."""
