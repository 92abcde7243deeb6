"""A program: vLLM in this one process loads each model folder after the other and scores the same tokens by it.

`python -m tests.served_models job.json`: `folders`, `tokens`, and `answers`, the file that is written: folder -> the
log-probability of each token but the first, or why the engine does not serve it.
"""

import gc
import json
import os
import sys
from pathlib import Path


def main(job_file: str) -> None:
    """Score, and write after each model."""
    job = json.loads(Path(job_file).read_text())
    # Read when vLLM is imported; a server's surroundings are set by its own adapter, and there is no server here.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    from vllm import LLM, SamplingParams
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    import serving_checks.engines.vllm_fork_patch  # noqa: F401  # as servers are started here

    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    answers: dict[str, list[float] | str] = {}
    for folder in job["folders"]:
        try:
            engine = LLM(folder, enforce_eager=True, max_model_len=128, max_num_seqs=4, dtype="bfloat16", seed=0)
            (answer,) = engine.generate([{"prompt_token_ids": job["tokens"]}], asked, use_tqdm=False)
            places = zip(answer.prompt_logprobs[1:], job["tokens"][1:], strict=True)
            answers[folder] = [place[token].logprob for place, token in places]
            del engine
        except Exception as error:  # The engine raises whatever it stumbles over.
            answers[folder] = f"{type(error).__name__}: {error}"
        gc.collect()
        cleanup_dist_env_and_memory()
        Path(job["answers"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
