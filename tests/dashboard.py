"""The dashboard's panels and their expressions, as Grafana would ask them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "configs" / "shadow" / "grafana.json"
ALERTS = ROOT / "configs" / "shadow" / "alerts.yaml"


class Asked(NamedTuple):
    """One line of a panel."""

    panel: dict[str, Any]
    expression: str
    legend: str

    def asked_over(self, interval: str) -> str:
        """The expression with Grafana's variables filled in.

        Args:
            interval: Of rates, such as `10s`.
        """
        return self.expression.replace("$__rate_interval", interval).replace("$instance", ".*")


def dashboard() -> dict[str, Any]:
    """As it is imported."""
    return dict(json.loads(DASHBOARD.read_text()))


def asked_by(panels: list[dict[str, Any]]) -> list[Asked]:
    """All expressions, in the order of the panels."""
    return [Asked(panel, one["expr"], one["legendFormat"]) for panel in panels for one in panel.get("targets", [])]
