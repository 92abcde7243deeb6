"""The tokenizer that a GGUF file describes, by llama.cpp's reading of its metadata.

Source of names and defaults: llama.cpp, `llama_vocab::impl::load` in src/llama-vocab.cpp. Where llama.cpp writes an
expression in its own way because its engine has no \\p{Lu} or (?i:), the model's own stands here, as quoted there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from configs.errors import RequestError
from quantizers.checkpoints import gguf_header


class PreTokenizer(NamedTuple):
    """How a text is cut into words before merges, and what else comes with the name."""

    splits: tuple[str, ...]
    """One after the other, each on what the ones before left; what an expression does not match stays a word too."""
    ignore_merges: bool = False
    """A word that is a token as a whole is taken so, whatever the merges say."""
    add_bos: bool = False
    """Where the file does not say."""


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's words."""
DIGITS = r"\p{N}"
"""Each by itself."""
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BY_NAMES: dict[tuple[str, ...], PreTokenizer] = {
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0"): PreTokenizer(
        (_LLAMA3,), ignore_merges=True, add_bos=True
    ),
    ("dbrx", "smaug-bpe"): PreTokenizer((_LLAMA3,)),
    ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2"): PreTokenizer((_QWEN2,)),
    ("tekken",): PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    ("gpt-4o", "llama4", "kanana2"): PreTokenizer((_GPT4O,)),
    ("gpt-2", "phi-2", "olmo", "mpt", "exaone4", "trillion"): PreTokenizer((GPT2,)),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): PreTokenizer((DIGITS, GPT2)),
}
PRE_TOKENIZERS = {name: rule for names, rule in _BY_NAMES.items() for name in names}
"""`tokenizer.ggml.pre` -> rule."""

_NO_MERGES = PreTokenizer(())
_ENDS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "<|eom_id|>")
)
"""Texts that llama.cpp takes for control tokens whatever the file calls them."""
_UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
NORMAL, UNUSED, BYTE = 1, 5, 6
"""Values of `tokenizer.ggml.token_type`."""
_NOT_STRIPPED = frozenset(("<unk>", "<s>", "<|endoftext|>"))


@dataclass(frozen=True)
class GgufVocabulary:
    """What is needed to turn a text into token ids."""

    kind: Literal["spm", "bpe"]
    tokens: list[str]
    types: list[int]
    """One of the values above for each token."""
    scores: list[float]
    """Of SPM: the higher, the earlier merged; empty for BPE."""
    merges: list[tuple[str, str]]
    """Of BPE, the first one first; empty for SPM."""
    pre: PreTokenizer
    bos: int | None
    eos: int | None
    unk: int | None
    pad: int | None
    ends: list[int]
    """Tokens that end an answer: EOS, and the end of a turn where the file names one."""
    add_bos: bool
    add_space_prefix: bool
    chat_template: str | None
    strips_right: bool
    """Phi 3's special tokens swallow the white space after them (llama.cpp knows it by the model's name)."""

    @property
    def opening(self) -> list[int]:
        """Token ids before every text."""
        return [self.bos] if self.add_bos and self.bos is not None else []

    def is_special(self, token: int) -> bool:
        """Whether it is found whole in a text, before anything else is looked at."""
        return self.types[token] in (_UNKNOWN, CONTROL, USER_DEFINED)

    def strips(self, token: int) -> bool:
        """Whether it swallows the white space after it."""
        return self.strips_right and self.is_special(token) and self.tokens[token] not in _NOT_STRIPPED


def check_vocabulary(path: Path) -> None:
    """Refuse what `read_vocabulary` would refuse for its kind, without reading the tokens (RequestError)."""
    _kind(_metadata(path, lists=False), path)


def read_vocabulary(path: Path) -> GgufVocabulary:
    """The vocabulary in `path`.

    Raises:
        RequestError: A kind of tokenizer or a pre-tokenizer that is not known here, an answer to a text that would be
            over before it begins (EOS after every prompt), or metadata that contradict each other.
    """
    metadata = _metadata(path, lists=True)
    kind, pre = _kind(metadata, path)

    def told(name: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{name}")

    tokens = [text or f"[EMPTY_{place}]" for place, text in enumerate(told("tokens") or [])]
    types = list(told("token_type") or [NORMAL] * len(tokens))
    scores = list(told("scores") or []) if kind == "spm" else []
    if not tokens or len(set(tokens)) != len(tokens) or len(types) != len(tokens):
        raise _broken(path, f"{len(tokens)} tokens, {len(set(tokens))} different ones, {len(types)} token types")
    if kind == "spm" and len(scores) != len(tokens):
        raise _broken(path, f"{len(tokens)} tokens with {len(scores)} scores")
    types = [CONTROL if text in _ENDS else sort for text, sort in zip(tokens, types, strict=True)]

    def token(name: str, default: int | None) -> int | None:
        found = told(f"{name}_token_id")
        if found is not None and not 0 <= found < len(tokens):
            raise _broken(path, f"{name}_token_id is {found}, there are {len(tokens)} tokens")
        return default if found is None else int(found)

    spm = kind == "spm"
    bos, eos = token("bos", 1 if spm else None), token("eos", 2 if spm else None)
    add_bos = bool(spm or pre.add_bos) if told("add_bos_token") is None else bool(told("add_bos_token"))
    if add_bos and bos is None:
        raise _broken(path, "every text begins with BOS (add_bos_token), and there is no bos_token_id")
    if told("add_eos_token"):
        raise RequestError(
            f"{path} puts EOS after every text (add_eos_token): each prompt would be over before it is answered",
            remedy="use a file that says add_eos_token false, such as one made by `gguf_set_metadata`",
        )
    ends = [one for one in (eos, token("eot", None), token("eom", None)) if one is not None]
    return GgufVocabulary(
        kind=kind,
        tokens=tokens,
        types=types,
        scores=scores,
        merges=[] if spm else [_pair(merge) for merge in told("merges") or []],
        pre=pre,
        bos=bos,
        eos=eos,
        unk=token("unknown", 0 if spm else None),
        pad=token("padding", None),
        ends=list(dict.fromkeys(ends)),
        add_bos=add_bos,
        add_space_prefix=spm if told("add_space_prefix") is None else bool(told("add_space_prefix")),
        chat_template=metadata.get("tokenizer.chat_template"),
        strips_right="phi-3" in str(metadata.get("general.name", "")).lower(),
    )


def _metadata(path: Path, *, lists: bool) -> dict[str, Any]:
    wanted = ("tokenizer.", "general.name")
    try:
        return gguf_header.metadata(path, wanted, lists=lists)
    except ValueError as error:
        raise RequestError(f"the header of {path} is broken: {error}", remedy="fetch the file again") from error


def _kind(metadata: dict[str, Any], path: Path) -> tuple[Literal["spm", "bpe"], PreTokenizer]:
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    remedy = "use the original checkpoint (`kind: folder` or `hub`), which brings its tokenizer's own files"
    if model == "llama":
        return "spm", _NO_MERGES
    if model != "gpt2":
        raise RequestError(f"{path} has a tokenizer of the kind {model!r}; known are llama and gpt2", remedy=remedy)
    if pre not in PRE_TOKENIZERS:
        # llama.cpp refuses an unknown name too, and warns of "degraded" answers where there is none.
        raise RequestError(
            f"{path} cuts texts into words by the rule {pre!r}, which is not known here: every prompt would be cut by a"
            f" guess; known are {', '.join(PRE_TOKENIZERS)}",
            remedy=remedy,
        )
    return "bpe", PRE_TOKENIZERS[pre]


def _pair(merge: str) -> tuple[str, str]:
    # The first character may be a space.
    left, _, right = merge[1:].partition(" ")
    return merge[:1] + left, right


def _broken(path: Path, what: str) -> RequestError:
    return RequestError(f"the tokenizer in {path} contradicts itself: {what}", remedy="fetch or convert the file again")
