"""Different texts of one length, so that the time of a request depends on its subnet alone."""

from __future__ import annotations

from random import Random

from tokenizers import Tokenizer

from models.inputs import InvalidInputError
from models.inputs.text import TOKENIZER, text_input
from server.served import Served

_TRIED = 4000
_KEPT = 500


class TextsError(ValueError):
    """No such texts can be made for the model; the message says why."""


def make(served: Served, num_tokens: int, count: int, seed: int) -> list[str]:
    """Return random words of the model's own vocabulary, joined by spaces.

    Args:
        served: The model that will read them.
        num_tokens: Of each text, special tokens included.
        count: Texts.
        seed: Of the words.

    Raises:
        TextsError: If the model reads no text, or texts of this length cannot be made.
    """
    try:
        model_input = text_input(served.inputs)
    except InvalidInputError:
        raise TextsError(f"{served.name} does not read text") from None
    rng = Random(seed)
    vocabulary = Tokenizer.from_file(str(served.folder / TOKENIZER)).get_vocab()
    words = sorted(word for word in vocabulary if word.isascii() and word.isalnum())
    lengths = {
        word: len(model_input.encode(word)) for word in rng.sample(words, min(_TRIED, len(words)))
    }
    shortest = min(lengths.values(), default=0)  # one token and the special ones
    single = [word for word, length in lengths.items() if length == shortest][:_KEPT]
    num_words = num_tokens - shortest + 1
    if not single or num_words < 1 or num_tokens > model_input.config.max_length:
        raise TextsError(
            f"{served.name} reads {shortest} to {model_input.config.max_length} tokens, "
            f"not {num_tokens}"
        )
    texts = [" ".join(rng.choices(single, k=num_words)) for _ in range(count)]
    if odd := next((text for text in texts if len(model_input.encode(text)) != num_tokens), None):
        raise TextsError(f"{served.name} does not read {odd!r} as {num_tokens} tokens")
    return texts
