"""Two real servers of a model and of one that is a little off: what they tell against transformers' own numbers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.asking.token_agreement import agree, collect
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import serve
from tests.tiny_llama import make_tiny_llama

CONFIG = VllmServerConfig(max_model_len=512, max_num_seqs=8, kv_cache_gib=0.25)
NOISE = 0.02


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One process that has imported vLLM: the servers are forks of it and start in seconds."""
    folder = tmp_path_factory.mktemp("fork")
    address = folder / "socket"
    command = VllmEngine(CONFIG).fork_server("cpu", 1, address)
    assert command is not None
    with Supervised(command.argv, env=command.env, log_file=folder / "fork-server.log") as child:
        while not address.exists():
            assert child.wait(0.05) is None, child.log_tail()
        yield address


def collected(model: Path, fork_server: Path) -> Path:
    from transformers import AutoTokenizer

    request = ServerRequest(CONFIG, model, "float32", "cpu", 1)
    with serve(request, model / "server.log", fork_server=fork_server) as server:
        return collect(server.endpoint, model / "token_logprobs.jsonl", AutoTokenizer.from_pretrained(model))


def noisy_copy(model: Path, path: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    copy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(NOISE * parameter.std().nan_to_num() * torch.randn_like(parameter))
    copy.save_pretrained(path)
    AutoTokenizer.from_pretrained(model).save_pretrained(path)
    return path


def whole_kl(baseline: Path, artifact: Path, texts: list[list[int]]) -> tuple[float, float]:
    """(share of positions with the same most likely token, mean KL) over the whole vocabulary."""
    import torch
    from transformers import AutoModelForCausalLM

    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (baseline, artifact)]
    same, divergence = [], []
    with torch.no_grad():
        for tokens in texts:
            p, q = (model(torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1) for model in models)
            same.append(p.argmax(-1) == q.argmax(-1))
            divergence.append((p.exp() * (p - q)).sum(-1))
    return float(torch.cat(same).double().mean()), float(torch.cat(divergence).mean())


@pytest.mark.engine
@pytest.mark.thorough
def test_what_servers_tell_agrees_with_the_whole_distributions(tmp_path: Path, fork_server: Path) -> None:
    from evals.asking.token_agreement import PromptLogprobs

    baseline = make_tiny_llama(tmp_path / "baseline")
    artifact = noisy_copy(baseline, tmp_path / "artifact")
    files = [collected(model, fork_server) for model in (baseline, artifact)]
    found = agree(*files)
    texts = [PromptLogprobs.model_validate_json(line).tokens for line in files[0].read_text().splitlines()]
    same, divergence = whole_kl(baseline, artifact, texts)
    assert found.positions == sum(len(tokens) - 1 for tokens in texts) > 1000
    assert found.top1_agreement == pytest.approx(same, abs=0.005)
    # A random model spreads its probability over the vocabulary: most of it lies in the last cell.
    assert 0 < found.kl_nats <= divergence
    assert found.unseen_share > 0.5
    assert agree(files[0], files[0]).kl_nats == 0
