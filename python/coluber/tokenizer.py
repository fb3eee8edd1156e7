"""Learning a vocabulary: Tokenizer.train."""

import json
import os
import tempfile
from typing import Callable, Iterable, Optional, Union

from . import _native
from ._native import StreamDecoder, Tokenizer
from .arguments import names_wrong_types

__all__ = ["StreamDecoder", "Tokenizer"]

PathLike = Union[str, "os.PathLike[str]"]


@names_wrong_types
def train(
    files: Union[PathLike, Iterable[PathLike], None] = None,
    vocab_size: int = 2048,
    *,
    texts: Optional[Iterable[str]] = None,
    kind: str = "bpe",
    model_type: str = "bpe",
    min_count: int = 2,
    max_bytes: int = 1 << 30,
    end_of_text: str = "<|endoftext|>",
    separator: str = "none",
    text_field: str = "text",
    progress: Optional[Callable[[float, str], None]] = None,
) -> Tokenizer:
    """Learns a vocabulary, as `coluber tokenizer train` does, from files (text, or JSON lines in *.jsonl) or `texts`.

    kind "bpe": byte-level, lossless; ids are end-of-text 0, the 256 bytes, then merges. kind "sentencepiece" with
    model_type "bpe" or "unigram": by that library (NotImplementedError in a build without it). vocab_size: 257 to
    1,000,000, small texts give fewer; min_count: rarer pairs are not merged; max_bytes of text are looked at; separator
    of documents in a text: "none", "blank-line" or "end-of-text". progress(share, what) is called now and then.
    The same text gives the same vocabulary. Ctrl-C is heard.
    """
    if (files is None) == (texts is None):
        raise TypeError("[tokenizer] train: expected files or texts, one of them")

    def learn(paths):
        return _native.train_tokenizer(
            paths, vocab_size, kind, model_type, min_count, max_bytes, end_of_text, separator, text_field, progress
        )

    if texts is None:
        paths = [files] if isinstance(files, (str, os.PathLike)) or not isinstance(files, Iterable) else list(files)
        return learn([os.fspath(path) for path in paths])
    if isinstance(texts, str):
        texts = [texts]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "texts.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for text in texts:
                if not isinstance(text, str):
                    raise TypeError(f"[tokenizer] texts: expected str, got {type(text).__name__}")
                file.write(json.dumps({text_field: text}, ensure_ascii=False) + "\n")
        return learn([path])


Tokenizer.train = staticmethod(train)
