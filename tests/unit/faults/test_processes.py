"""Who is who is read from the logs that processes write, by the names that the product gives them."""

from pathlib import Path
from unittest.mock import MagicMock

from pipelines.execution import jobs
from tests.faults.processes import Seen, by_role

RUN = "/somewhere/runs/20260101T000000-faults-abc/logs"


def test_roles_are_told_by_logs() -> None:
    seen = [
        Seen(10, 1, "warm", "/warm/a.log"),
        Seen(20, 10, "guard", f"{RUN}/measure-int8.log"),
        Seen(21, 20, "stage", f"{RUN}/measure-int8.log"),
        Seen(30, 10, "guard", f"{RUN}/measure-int8+server.log"),
        Seen(31, 30, "server", f"{RUN}/measure-int8+server.log"),
        Seen(40, 10, "guard", "/scratch/x/load.log"),
        Seen(41, 40, "load", "/scratch/x/load.log"),
        Seen(50, 10, "guard", f"{RUN}/record.log"),
        Seen(51, 50, "recorder", f"{RUN}/record.log"),
        Seen(60, 10, "guard", f"{RUN}/fork-server-stages.log"),
        Seen(61, 60, "fork server", f"{RUN}/fork-server-stages.log"),
    ]
    assert by_role(seen) == {
        "stage guard": [20],
        "stage": [21],
        "server guard": [30],
        "server": [31],
        "load guard": [40],
        "load": [41],
        "recorder": [51],
        "fork server": [61],
    }


def test_a_servers_log_is_named_as_the_campaign_knows_it() -> None:
    served = jobs._served(MagicMock(), MagicMock(), Path("model"), Path(f"{RUN}/measure-int8.log"))
    log = str(served["server_log_file"])
    assert by_role([Seen(30, 10, "", log), Seen(31, 30, "", log)])["server"] == [31]
