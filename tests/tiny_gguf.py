"""GGUF files of a tokenizer without weights, written by the `gguf` package from vocabularies trained on the spot."""

import json
from pathlib import Path
from typing import Any

import gguf

_TEXT = [
    "The quick brown fox jumps over the lazy dog while the sun sets behind the hills; 12 of 345 were seen.",
    "A river runs from the mountains to the sea and carries sand, leaves and stories with it.  Two spaces.",
    "Two plus three is five, seven plus five is twelve; it's 7, we'll see, don't they've I'm he'd.",
    "Paris is the capital of France; Berlin is the capital of Germany; Rome is the capital of Italy.",
    "naïve façade Übergröße привет мир 你好 世界",
] * 20

SPECIAL = ["<unk>", "<s>", "</s>", "<turn>"]
ADDED = "  "
"""A token that a user defined: two spaces, as Gemma has them."""


def write_spm(path: Path, *, architecture: str = "llama", **metadata: Any) -> Path:
    """A sentencepiece vocabulary (`tokenizer.ggml.model` llama); `metadata` are further keys of `tokenizer.ggml`."""
    model = train_sentencepiece(path.parent, dummy_prefix=metadata.get("add_space_prefix", True))
    tokens = [model.id_to_piece(token) for token in range(model.get_piece_size())]
    types = [
        gguf.TokenType.UNKNOWN
        if model.is_unknown(token)
        else gguf.TokenType.CONTROL
        if model.is_control(token)
        else gguf.TokenType.BYTE
        if model.is_byte(token)
        else gguf.TokenType.NORMAL
        for token in range(len(tokens))
    ]
    scores = [model.get_score(token) for token in range(len(tokens))]
    tokens += [SPECIAL[3], ADDED]
    types += [gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED]
    scores += [-1000.0, -1000.0]
    named = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return _write(path, architecture, "llama", tokens, types, named | metadata, scores=scores)


def train_sentencepiece(folder: Path, *, dummy_prefix: bool = True) -> Any:
    """A small BPE model with byte tokens, as Llama's and Gemma's are; its file is `folder`/tokenizer.model."""
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(_TEXT), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=dummy_prefix,
        split_digits=True,
        minloglevel=2,
    )
    corpus.unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def write_bpe(path: Path, *, architecture: str = "llama", pre: str | None = "smollm", **metadata: Any) -> Path:
    """A byte-level vocabulary (`tokenizer.ggml.model` gpt2) whose words were cut as `pre` says."""
    tokens, merges = _byte_level()
    tokens += [*SPECIAL, "wholeword", ADDED]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    for token in SPECIAL:
        types[tokens.index(token)] = gguf.TokenType.CONTROL
    types[-1] = gguf.TokenType.USER_DEFINED
    named: dict[str, Any] = {"bos_token_id": tokens.index("<s>"), "eos_token_id": tokens.index("</s>")}
    named |= {"pre": pre} if pre else {}
    return _write(path, architecture, "gpt2", tokens, types, named | metadata, merges=merges)


def _byte_level() -> tuple[list[str], list[str]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    # White space and words apart, so that runs of spaces and of line ends are tokens.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([*_TEXT, "a\n\n\nb\n\nc    d\n    e  f" * 9], trainer)
    vocabulary = bpe.get_vocab()
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return sorted(vocabulary, key=vocabulary.__getitem__), [" ".join(pair) for pair in merges]


def _write(
    path: Path,
    architecture: str,
    model: str,
    tokens: list[str],
    types: list[gguf.TokenType],
    metadata: dict[str, Any],
    **lists: list[Any],
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if "scores" in lists:
        writer.add_token_scores(lists["scores"])
    if "merges" in lists:
        writer.add_token_merges(lists["merges"])
    for name, value in metadata.items():
        key = name if name.startswith(("tokenizer.", "general.")) else f"tokenizer.ggml.{name}"
        if value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
