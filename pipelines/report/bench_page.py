"""Writes a bench's `report.html`: the run's parts on speed, memory and checks, for one server."""

from datetime import datetime
from pathlib import Path

from pipelines.planning.device import MachineRecord
from pipelines.recipe.bench_config import BenchConfig
from pipelines.records.model_cost import pricing_of
from pipelines.records.rows import BenchedModel
from pipelines.report.page import PAGE_FILE, page_environment, serving_parts
from registry.contracts import ServingRecord
from registry.files import write_text_atomically


def write_bench_page(config: BenchConfig, machine: MachineRecord, record: ServingRecord, directory: Path) -> Path:
    """Render `record` and write it into `directory`, atomically.

    Returns:
        The page's path.
    """
    path = directory / PAGE_FILE
    rows = [BenchedModel(name=config.name, served=record)]
    page = page_environment().get_template("page_bench.html")
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = page.render(
        config=config,
        machine=machine,
        written=written,
        record={"rows": rows},
        serving=record,
        evaluation=None,
        files_place="beside this page",
        **serving_parts(rows, pricing_of(config.model_dump(mode="json"))),
    )
    write_text_atomically(path, text)
    return path
