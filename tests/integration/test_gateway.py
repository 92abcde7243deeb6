"""The gateway as it is started, with real vLLM servers behind it and OpenAI's client before it."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from openai import OpenAI

from pipelines.cli import main
from registry.contracts.live_verdict import LiveVerdict
from registry.pair_database import read_pair_database
from tests.tiny_llama import make_tiny_llama
from tests.unit.pipelines.test_gateway import Lab

pytestmark = [pytest.mark.engine, pytest.mark.service, pytest.mark.timeout(1800)]

SERVING = {"engine": "vllm", "max_model_len": 128, "max_num_seqs": 4, "kv_cache_gib": 0.25, "enforce_eager": True}
PROMPTS: list[dict[str, Any]] = [
    *({"prompt": f"The river runs {word}", "max_tokens": 8} for word in ("north", "south", "fast", "dry")),
    *({"messages": [{"role": "user", "content": f"Say {number}"}], "max_tokens": 8} for number in range(4)),
]


class RealLab(Lab):
    """Each version is a tiny Llama of its own; 3 says what 1 says."""

    def _stored(self, version: str) -> str:
        with self.workspace.store.staging() as staging:
            make_tiny_llama(staging, seed=0 if version == "3" else int(version) - 1)
            (staging / "version.txt").write_text(version)
            return self.workspace.store.put(staging).digest


@contextmanager
def gateway(lab: RealLab, log: Path) -> Iterator[str]:
    """`quantbench shadow up`, until it is told to end; its address."""
    argv = [sys.executable, "-P", "-m", "pipelines.cli", "shadow", "up", str(lab.config_file)]
    with log.open("w") as file:
        process = subprocess.Popen([*argv, "--workspace", str(lab.workspace.root)], stdout=file, stderr=file)
    try:
        until(lambda: "answers as demo" in log.read_text(), process, log)
        yield f"http://127.0.0.1:{lab.port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
    end = time.monotonic() + 600
    while not holds():
        assert process is None or process.poll() is None, log and log.read_text()
        assert time.monotonic() < end, log and log.read_text()
        time.sleep(0.1)


class Asking(threading.Thread):
    """OpenAI's client, that keeps asking until it is told to stop; every second answer is streamed."""

    def __init__(self, address: str, user: str) -> None:
        super().__init__(daemon=True)
        self._client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        self._user, self._told_to_end = user, threading.Event()
        self.ended: Counter[str] = Counter()

    def run(self) -> None:
        number = 0
        while not self._told_to_end.is_set():
            body = PROMPTS[number % len(PROMPTS)] | {"model": "demo", "temperature": 0.0, "user": self._user}
            kind: Any = self._client.chat.completions if "messages" in body else self._client.completions
            try:
                answer = kind.create(stream=number % 2 == 1, **body)
                ends = [piece.choices[0].finish_reason for piece in (answer if number % 2 else [answer])]
                self.ended["whole" if ends[-1] in ("stop", "length") else "cut off"] += 1
            except Exception as error:
                self.ended[repr(error)] += 1
            number += 1
            # The machine's cores are for the servers too.
            self._told_to_end.wait(0.2)

    def end(self) -> None:
        self._told_to_end.set()
        self.join(60)


def answered(address: str, model: str, body: dict[str, Any]) -> bytes:
    """The bytes of an answer, but for the time when it was asked; of a streamed one the words, since a server may send
    two tokens at once."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    asked = {"temperature": 0.0, **body, "model": model}
    answer = requests.post(address + path, json=asked, headers={"x-request-id": "the-same"}, timeout=60)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return re.sub(rb'"created": ?\d+', b'"created":0', answer.content)
    *events, last = (line for line in answer.content.split(b"\n\n") if line)
    assert last == b"data: [DONE]"
    pieces = [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in events]
    words = "".join((piece.get("delta") or {}).get("content") or piece.get("text") or "" for piece in pieces)
    return f"{words}, {pieces[-1]['finish_reason']}".encode()


def test_a_candidate_s_way_with_real_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, log = RealLab(tmp_path, monkeypatch), tmp_path / "gateway.log"
    config = yaml.safe_load(lab.config_file.read_text()) | {
        "follow_seconds": 0.2,
        "serving": SERVING,
        "device": "cpu",
        "split": {"ramp": [0.5, 1.0]},
        "verdict": {"metrics": {"errors": 0.3, "same": 0.5}},
    }
    lab.config_file.write_text(yaml.safe_dump(config))
    lab.move("champion", "1")

    def standing() -> LiveVerdict:
        return LiveVerdict.model_validate_json(requests.get(f"{address}/verdict", timeout=10).content)

    with gateway(lab, log) as address:
        server_log = (lab.workspace.root / "shadow" / "live" / "version-1.log").read_text()
        line = re.findall(r"http://127.0.0.1:\d+", server_log)[0]
        (model,) = (one["id"] for one in requests.get(f"{line}/v1/models", timeout=10).json()["data"])
        for body in PROMPTS:
            for streamed in ({}, {"stream": True}):
                direct = answered(line, model, body | streamed)
                assert answered(address, "demo", body | streamed) == direct, "the champion's own"
        clients = [Asking(address, f"user-{number}") for number in range(3)]
        for client in clients:
            client.start()
        # Another model fails, one that says the same passes; both while clients keep asking.
        lab.move("shadow", "2")
        until(lambda: standing().state == "failed", log=log)
        assert standing().share == 0
        lab.move("shadow", "3")
        until(lambda: standing().outcome == "pass", log=log)
        assert main(["shadow", "ramp", "status", "--workspace", str(lab.workspace.root)]) == 0
        assert "passed at 100 %, step 2 of 2" in capsys.readouterr().out
        starts = log.read_text().count("is served")
        lab.move("champion", "3")
        until(lambda: "version 3 answers clients" in log.read_text(), log=log)
        assert log.read_text().count("is served") == starts, "what was the shadow runs already"
        lab.move("champion", "1")
        until(lambda: "version 1 answers clients" in log.read_text(), log=log)
        asked = [client.ended.total() for client in clients]
        until(lambda: all(client.ended.total() > before + 3 for client, before in zip(clients, asked, strict=True)))
        for client in clients:
            client.end()
        ended = sum((client.ended for client in clients), Counter())
        assert set(ended) == {"whole"}, ended
        assert standing().share == 0, "what was taken back answers nobody"
    pairs = read_pair_database(lab.workspace.root / "shadow" / "live" / "pairs.db").to_pylist()
    assert {pair["source"] for pair in pairs} == {"mirror", "split"}
    same = {
        version: {pair["same"] for pair in pairs if pair["candidate"]["version"] == version} for version in ("2", "3")
    }
    assert same == {"2": {False}, "3": {True}}
    kinds = [row.kind for row in lab.ledger.entries(lab.model, "ramp:shadow")]
    assert kinds == ["begin", "fail", "begin", "advance", "pass", "stop"]
    print(f"{ended['whole']} requests, none failed; {len(pairs)} pairs")
