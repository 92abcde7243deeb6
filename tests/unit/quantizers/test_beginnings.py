"""A model that was trained with BOS before every text gets it: in calibration, in evaluation and under load (Gemma)."""

from pathlib import Path
from typing import Any

import pytest

from quantizers.calibration.calibration import pack_rows
from quantizers.calibration.config import FileCalibration
from quantizers.calibration.exclusion import Exclusion
from registry.texts import opening_of, text_ids
from serving_checks.load.prompts import PromptSource

TEXTS = ["The river runs to the sea.", "She opened the door and looked at the rain.", "Two plus three is five."]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer of Gemma's class as transformers 5 loads it from files: BOS is its own word, not the file's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("gemma")
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))  # noqa: S106
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "GemmaTokenizer", "add_bos_token": true, "bos_token": "<bos>", "eos_token": "<eos>",'
        ' "pad_token": "<pad>", "unk_token": "<unk>"}'
    )
    (folder / "config.json").write_text('{"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}')
    return AutoTokenizer.from_pretrained(folder)


def test_every_calibration_row_begins_with_it(gemma: Any) -> None:
    config = FileCalibration(source="file", path=Path("texts.txt"), samples=4, tokens=16)
    rows, _ = pack_rows(TEXTS * 12, gemma, config, Exclusion([]))
    assert [row[0] for row in rows] == [gemma.bos_token_id] * 4
    # Where a document ends and the next one begins inside a row, too.
    ends = [(row, place) for row in rows for place, token in enumerate(row[:-1]) if token == gemma.eos_token_id]
    assert ends
    assert all(row[place + 1] == gemma.bos_token_id for row, place in ends)


def test_what_is_evaluated_begins_with_it_once(gemma: Any) -> None:
    assert opening_of(gemma) == [gemma.bos_token_id]
    plain, brought = text_ids(gemma, [TEXTS[0], f"<bos>{TEXTS[0]}"])
    assert plain == brought
    assert plain.count(gemma.bos_token_id) == 1


def test_a_prompt_of_a_load_test_counts_it(gemma: Any) -> None:
    """The server adds it to a text, so a prompt of 24 tokens is a text of 23."""
    prompt = PromptSource(gemma, " ".join(TEXTS * 40), seed=0).prompt(24).text
    assert gemma.bos_token not in prompt
    ids = gemma(prompt)["input_ids"]
    assert (len(ids), ids[0]) == (24, gemma.bos_token_id)
