"""What a recipe says about the registry: its ledger's address without the password, and aliases that differ."""

import pytest
from pydantic import ValidationError

from pipelines.recipe.registry_config import RegistryConfig


def test_a_password_is_not_written() -> None:
    config = RegistryConfig(ledger="postgresql://team:hidden%2Fword@db.example/models")
    assert config.ledger == "postgresql://team:hidden%2Fword@db.example/models", "the process has it"
    assert "hidden" not in config.model_dump_json()
    assert config.model_dump(mode="json")["ledger"] == "postgresql://team:***@db.example/models"


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        ("/var/ledger.db", "it is no database's address"),
        ("http://mlflow.example:5000", "it is no database's address"),
        ("sqlite:ledger.db", "it is no database's address"),
        ("postgresql://db/models?password=word", "a password stands as user:password@host"),
    ],
)
def test_what_is_no_ledger(ledger: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RegistryConfig(ledger=ledger)


def test_names_of_aliases() -> None:
    config = RegistryConfig.model_validate({"aliases": {"champion": "production"}})
    assert config.aliases.of("champion") == "production"
    assert config.aliases.of("shadow") == "shadow"
    with pytest.raises(ValidationError, match="each alias has a name of its own"):
        RegistryConfig.model_validate({"aliases": {"champion": "shadow"}})
    with pytest.raises(ValidationError):
        RegistryConfig.model_validate({"aliases": {"champion": "Pro duction"}})
