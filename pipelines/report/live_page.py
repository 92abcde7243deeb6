"""The page that a running gateway shows of itself: one file that asks for nothing but its status."""

import base64
import hashlib
import re

from pipelines.report.page import page_environment
from serving_checks.gateway.live_page import LivePage

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def live_page(model: str) -> LivePage:
    """Render it.

    Args:
        model: What clients call the model.
    """
    html = page_environment().get_template("page_live.html").render(model=model)
    # Only these very scripts run, whatever else comes into the page.
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in _SCRIPT.findall(html))
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    return LivePage(html.encode(), policy)


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
