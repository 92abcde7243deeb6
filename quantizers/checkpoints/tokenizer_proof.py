"""A checkpoint's tokenizer, as the engines read it, is held against the rules of the place it came from.

transformers makes some tokenizers anew from a class in place of the file's own rules, and leaves out what it does not
know. Either is seen only in token ids, so ids are compared: of texts of many kinds, and of texts made from the
vocabulary itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import is_normalized

from configs.errors import RequestError
from configs.reading.json_text import read_json_object
from quantizers.checkpoints.gguf_vocabulary import UNUSED, GgufVocabulary
from quantizers.checkpoints.llama_cpp_tokens import LlamaCpp
from registry.texts import TextEnding, opening_of

_PROBES = (
    "Hello world",
    " A space before, two  in the middle,   three, one after ",
    *("x" + " " * count + "y" for count in (4, 7, 15, 16, 31, 33, 64)),
    *("x" + "\n" * count + "5" for count in (1, 2, 3, 31, 33)),
    "\ttabs\t\tand\r\nWindows lines \n \n  indented\n",
    "def f(x):\n    return x  # 4 spaces\n        y = 12",
    "0 7 12 345 6789 1234567 3.14159 1,000,000 x  5  42 \n\n7",
    "don't DON'T we'll WE'LL I'm they've it's 'quoted' ''",
    "Übergrößenträger naïve façade Ångström ﬁne",
    "Привет, мир! Ένα δύο τρία. שלום עולם مرحبا بالعالم",
    "你好,世界。こんにちは世界 カタカナ 안녕하세요 세계 สวัสดีชาวโลก नमस्ते दुनिया",
    "e\N{COMBINING ACUTE ACCENT} a\N{NO-BREAK SPACE}b c\N{IDEOGRAPHIC SPACE}d e\N{ZERO WIDTH JOINER}f",
    "\N{BYTE ORDER MARK}g h\N{BYTE ORDER MARK}",
    "😀 👩‍👩‍👧 🇩🇪 🏳️‍🌈 ❤️ 𝒳𝔞 𐍈",
    "٣٤٥ ४५६ Ⅷ ½ ² ①",
    "!?.,;:-_()[]{}<>/\\|@#$%^&*+=~`\"' ... --- ===",
    "<0x0A> <unk> </s> <|x|> [INST] ▁ Ġ Ċ",
    "camelCase snake_case UPPER MixedCASEword HTTPServer2Go",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)
_VOCABULARY_PROBES = 2_000
_JOINED = 5
_SHOWN_IDS = 12
_PLAIN_CLASS = "PreTrainedTokenizerFast"

_Ids = Callable[[str], list[int]]


class ProvedTokenizer(NamedTuple):
    """What is recorded of a tokenizer."""

    opening: list[int]
    """Token ids before every text."""
    proof: str
    """In words, what was compared."""


class _Differs(RequestError):
    """The tokenizer gives other ids than its source."""


def prove_gguf(vocabulary: GgufVocabulary, folder: Path, origin: Path, *, composed: bool = False) -> ProvedTokenizer:
    """Hold the tokenizer in `folder` against llama.cpp's reading of the GGUF file `origin`.

    Args:
        composed: With texts alone whose characters are composed (Unicode's NFC). Qwen's tokenizer composes all others,
            which llama.cpp does not.

    Raises:
        RequestError: A text has other ids, or a named token or the chat template is another.
    """
    tokenizer = _loaded(folder, origin)
    for name in ("bos", "eos", "unk", "pad"):
        found, wanted = getattr(tokenizer, f"{name}_token_id"), getattr(vocabulary, name)
        if found != wanted:
            raise _differs(origin, f"its {name} token", wanted, found)
    if tokenizer.chat_template != vocabulary.chat_template:
        raise _differs(origin, "its chat template", vocabulary.chat_template, tokenizer.chat_template)
    # llama.cpp's converter fills a vocabulary up to the embedding's rows.
    filled_up = vocabulary.types[len(tokenizer) :]
    if len(tokenizer) > len(vocabulary.tokens) or any(sort != UNUSED for sort in filled_up):
        raise _differs(origin, "its number of tokens", len(vocabulary.tokens), len(tokenizer))
    special = [text for token, text in enumerate(vocabulary.tokens) if vocabulary.is_special(token)]
    texts = list(_probes(tokenizer, special))
    if composed:
        texts = [text for text in texts if is_normalized("NFC", text)]
    _compare(texts, LlamaCpp(vocabulary).ids, lambda text: _ids(tokenizer, text), origin)
    return ProvedTokenizer(
        vocabulary.opening, f"{len(texts)} texts have the token ids that llama.cpp's rules give them"
    )


def prove_folder(folder: Path, origin: Path) -> ProvedTokenizer:
    """Hold the tokenizer in `folder` against its own files: tokenizer.json, or else tokenizer.model.

    Where transformers makes the tokenizer anew from the class that tokenizer_config.json names, and by other rules than
    those in tokenizer.json, `folder` gets a tokenizer_config.json that names no class of a model.

    Args:
        origin: Where it was copied from, for messages.

    Raises:
        RequestError: transformers reads the files otherwise than they say, they contradict each other, or they do not
            say how a text begins.
    """
    try:
        return _prove_folder(folder, origin)
    except _Differs:
        if not _let_file_rule(folder):
            raise
    proved = _prove_folder(folder, origin)
    return proved._replace(proof=f"{proved.proof}, not those of the class in tokenizer_config.json")


def _prove_folder(folder: Path, origin: Path) -> ProvedTokenizer:
    tokenizer = _loaded(folder, origin)
    said = _told(folder / "tokenizer_config.json", origin)
    file, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if file.is_file():
        own, opening = _read_by_tokenizers(file)
        _check_opening(tokenizer, said, opening, origin)
        texts = list(_probes(tokenizer, tokenizer.all_special_tokens))
    elif model.is_file():
        own = _read_by_sentencepiece(model)
        _check_opening(tokenizer, said, None, origin)
        special = tokenizer.all_special_tokens
        # sentencepiece takes the text of a special token for a text like others.
        texts = [text for text in _probes(tokenizer, []) if not any(one in text for one in special)]
    else:
        # What GPT-2's and Qwen's tokenizers were from the start: no BOS unless the config asks for it.
        _check_opening(tokenizer, said, None if said else [], origin)
        told = "made from vocab.json and merges.txt by transformers; there is no other reading to compare with"
        return ProvedTokenizer(opening_of(tokenizer), told)
    _compare(texts, own, lambda text: _ids(tokenizer, text, special=False), origin)
    by = file.name if file.is_file() else model.name
    return ProvedTokenizer(opening_of(tokenizer), f"{len(texts)} texts have the token ids that {by} gives them")


def _let_file_rule(folder: Path) -> bool:
    """Whether tokenizer_config.json named a class, and now names the one that takes tokenizer.json as it is."""
    path = folder / "tokenizer_config.json"
    config = read_json_object(path) if path.is_file() else {}
    if not (folder / "tokenizer.json").is_file() or config.get("tokenizer_class") in (None, _PLAIN_CLASS):
        return False
    path.write_text(json.dumps(config | {"tokenizer_class": _PLAIN_CLASS}, indent=2) + "\n", encoding="utf-8")
    return True


def _loaded(folder: Path, origin: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever it stumbles over.
        raise RequestError(
            f"transformers does not read the tokenizer in {origin}: {type(error).__name__}: {error}",
            remedy="copy the tokenizer's files again from the place that the weights came from",
        ) from error


def _check_opening(tokenizer: Any, said: bool | None, opening: list[int] | None, origin: Path) -> None:
    """`said`: tokenizer_config.json's add_bos_token; `opening`: what the tokenizer's own file puts before a text."""
    by_config = None if said is None else [tokenizer.bos_token_id] if said else []
    if by_config is not None and opening is not None and by_config != opening:
        raise RequestError(
            f"the tokenizer in {origin} contradicts itself: tokenizer_config.json says add_bos_token {said}, the"
            f" post-processor in tokenizer.json begins a text with {opening or 'nothing'}",
            remedy="see how the model was trained and let both files say it",
        )
    wanted = by_config if opening is None else opening
    if wanted is None:
        raise RequestError(
            f"nothing in {origin} says whether a text begins with BOS",
            remedy="write add_bos_token, true or false as the model was trained, into its tokenizer_config.json",
        )
    if (found := _opening(tokenizer, origin)) != wanted:
        raise _differs(origin, "what begins every text", wanted, found)


def _opening(tokenizer: Any, origin: Path) -> list[int]:
    try:
        return opening_of(tokenizer)
    except TextEnding as error:
        raise RequestError(
            f"the tokenizer in {origin} puts {error.ids} after every text: each prompt would be over before it is"
            " answered",
            remedy="take EOS out of a copy: add_eos_token false in tokenizer_config.json, and the post-processor's",
        ) from error


def _told(path: Path, origin: Path) -> bool | None:
    told = read_json_object(path).get("add_bos_token") if path.is_file() else None
    if told is not None and not isinstance(told, bool):
        raise RequestError(f"{origin / path.name} says add_bos_token: {told!r}", remedy="write true or false there")
    return told


def _read_by_tokenizers(file: Path) -> tuple[_Ids, list[int]]:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(file))
    own.no_truncation()
    own.no_padding()

    def bare(text: str) -> list[int]:
        ids: list[int] = own.encode(text, add_special_tokens=False).ids
        return ids

    with_special, without = own.encode("a").ids, bare("a")
    place = next((at for at in range(len(with_special)) if with_special[at : at + len(without)] == without), 0)
    return bare, with_special[:place]


def _read_by_sentencepiece(model: Path) -> _Ids:
    from sentencepiece import SentencePieceProcessor

    own = SentencePieceProcessor(model_file=str(model))

    def bare(text: str) -> list[int]:
        ids: list[int] = own.encode(text)
        return ids

    return bare


def _probes(tokenizer: Any, special: Sequence[str]) -> Iterator[str]:
    yield from _PROBES
    for text in islice(special, 200):
        yield f"{text}a {text} b{text}"
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    left_out = set(special)
    ids = sorted(token for text, token in vocabulary.items() if text not in left_out)
    some = ids[:: max(1, len(ids) // _VOCABULARY_PROBES)]
    pieces = [tokenizer.decode([token]) for token in some]
    yield from pieces
    # Steps through the vocabulary put pieces beside each other that do not belong together.
    yield from ("".join(pieces[place :: len(pieces) // _JOINED or 1]) for place in range(0, len(pieces), _JOINED))


def _compare(texts: Sequence[str], own: _Ids, written: _Ids, origin: Path) -> None:
    for text in texts:
        if (wanted := own(text)) != (found := written(text)):
            alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, found, strict=False)))
            what = f"the text {text!r}" + (f" after {alike} tokens" if alike else "")
            raise _differs(origin, what, wanted[alike:], found[alike:])


def _ids(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special, return_attention_mask=False).input_ids
    return ids


def _differs(origin: Path, what: str, wanted: Any, found: Any) -> _Differs:
    def short(value: Any) -> str:
        return f"{value[:_SHOWN_IDS]} ..." if isinstance(value, list) and len(value) > _SHOWN_IDS else repr(value)

    return _Differs(
        f"{what} is {short(wanted)} by the rules in {origin} and {short(found)} by the tokenizer that the engines"
        " read: every prompt and every score would be another model's",
        remedy="use the original checkpoint, or one whose tokenizer.json was saved by transformers 5",
    )
