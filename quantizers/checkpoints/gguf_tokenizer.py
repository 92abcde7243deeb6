"""Writes the tokenizer that a GGUF file describes as the files that transformers and vLLM read.

transformers converts it too, but leaves out without a word what changes token ids: `add_bos_token`,
`add_space_prefix`, how words are cut (smollm and others), and that whole words go before merges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantizers.checkpoints.gguf_vocabulary import CONTROL, NORMAL, GgufVocabulary

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def write_tokenizer(vocabulary: GgufVocabulary, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template into `folder`."""
    from transformers import PreTrainedTokenizerFast

    backend = _sentencepiece(vocabulary) if vocabulary.kind == "spm" else _byte_level(vocabulary)
    backend.add_tokens(_added(vocabulary))
    named = {"bos": vocabulary.bos, "eos": vocabulary.eos, "unk": vocabulary.unk, "pad": vocabulary.pad}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        add_bos_token=vocabulary.add_bos,
        add_eos_token=False,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": vocabulary.tokens[token] for name, token in named.items() if token is not None},
    )
    tokenizer.chat_template = vocabulary.chat_template
    tokenizer.save_pretrained(folder)


def _sentencepiece(vocabulary: GgufVocabulary) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    prepend = [normalizers.Prepend(_SPACE)] if vocabulary.add_space_prefix else []
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.add_space_prefix else []
    model = models.BPE(
        vocab={text: token for token, text in enumerate(vocabulary.tokens)},
        merges=_merges_by_score(vocabulary),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=None if vocabulary.unk is None else vocabulary.tokens[vocabulary.unk],
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _byte_level(vocabulary: GgufVocabulary) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    model = models.BPE(
        vocab={text: token for token, text in enumerate(vocabulary.tokens)},
        merges=vocabulary.merges,
        ignore_merges=vocabulary.pre.ignore_merges,
    )
    tokenizer = Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in vocabulary.pre.splits]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges_by_score(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """SPM joins any two pieces that make a token, the best scored first; BPE wants each such pair listed."""
    pieces = [token for token, sort in enumerate(vocabulary.types) if sort == NORMAL]
    known = {vocabulary.tokens[token] for token in pieces}
    merges = []
    for token in sorted(pieces, key=lambda token: -vocabulary.scores[token]):
        text = vocabulary.tokens[token]
        cuts = ((text[:place], text[place:]) for place in range(1, len(text)))
        merges += [(left, right) for left, right in cuts if left in known and right in known]
    return merges


def _added(vocabulary: GgufVocabulary) -> list[Any]:
    from tokenizers import AddedToken

    return [
        AddedToken(
            text,
            special=vocabulary.types[token] == CONTROL,
            normalized=False,
            rstrip=vocabulary.strips(token),
        )
        for token, text in enumerate(vocabulary.tokens)
        if vocabulary.is_special(token)
    ]
