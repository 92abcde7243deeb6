"""A tiny random Llama with a real tokenizer, made on the spot: what every test takes for a model.

vLLM serves it on CPU (head size 32 is the smallest that its CPU attention accepts) and every method quantizes it
(all features are multiples of 64, so group sizes 32 and 64 fit). It says nonsense, evenly.
"""

from pathlib import Path

_TEXT = [
    "The quick brown fox jumps over the lazy dog while the sun sets behind the hills.",
    "A river runs from the mountains to the sea and carries sand, leaves and stories with it.",
    "Two plus three is five, seven plus five is twelve, and ten minus four is six.",
    "Paris is the capital of France; Berlin is the capital of Germany; Rome is the capital of Italy.",
    "She opened the door, looked at the rain, and decided to stay at home with a book.",
    "Answer the question with one word: what colour is the sky on a clear day?",
]

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_tokenizer(path: Path, vocab_size: int = 512) -> None:
    """Train a byte-level BPE on a few sentences and save it with a small chat template into `path`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **{"bos_token": _SPECIAL[0], "eos_token": _SPECIAL[2], "pad_token": _SPECIAL[2], "unk_token": _SPECIAL[3]},
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)


def make_tiny_llama(
    path: Path,
    seed: int = 0,
    *,
    hidden: int = 128,
    layers: int = 2,
    intermediate: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 512,
    max_positions: int = 512,
) -> Path:
    """Write a random bfloat16 Llama checkpoint with tokenizer and chat template into `path` and return `path`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        vocab_size=vocab,
        max_position_embeddings=max_positions,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    make_tiny_tokenizer(path, vocab)
    return path
