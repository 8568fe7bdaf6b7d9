"""CLIP's text tower: one feature for each row of a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.weights_version import WeightsVersion
from escnet.vocabulary import TextEmbeddingCache, Vocabulary, VocabularyError


class ClipTextEncoder(nn.Module):
    """The text tower of CLIP: one feature per row of a vocabulary (ESC-Net, sec. 3: F_l).

    Holds only the text part of the model: a module that owns this and a `ClipImageEncoder` owns each parameter once.

    Arguments:
      model: open_clip's CLIP or CustomTextCLIP with a TextTransformer.
      tokenizer: the tokenizer of that model.
      cache_capacity: how many vocabularies `encode` remembers.

    Raises:
      TypeError: for a text tower of another kind.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Tensor], cache_capacity: int = 8) -> None:
        super().__init__()
        tower, self.pool_type, self.end_id = _text_tower(model)
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)
        self.context_length: int = tower.context_length
        self.tokenizer = tokenizer
        self._weights = WeightsVersion()
        self.cache: TextEmbeddingCache[Tensor] = TextEmbeddingCache(cache_capacity)

    def forward(self, vocabulary: Vocabulary, chunk: int = 256) -> Tensor:
        """Embed a vocabulary, with gradient where it is enabled.

        A name's embedding is the normalised mean of the normalised embeddings of its templates, a row's the normalised
        mean over its synonyms.

        Arguments:
          vocabulary: the words.
          chunk: how many texts go through the tower at once.

        Returns:
          (rows, D), L2-normalised, in the order of `vocabulary.rows`.

        Raises:
          VocabularyError: for a text that is longer than the context.
        """
        texts = self.embed(self.tokenize(vocabulary), chunk)
        names = F.normalize(texts.unflatten(0, (-1, len(vocabulary.templates))).mean(dim=1), dim=-1)
        sizes = [len(synonyms) for synonyms in vocabulary.rows]
        if max(sizes) == 1:
            return names
        return F.normalize(torch.stack([synonyms.mean(dim=0) for synonyms in names.split(sizes)]), dim=-1)

    def train(self, mode: bool = True) -> ClipTextEncoder:
        """Set the mode, as every module does; training forgets what is remembered, since fused optimizers change
        weights without leaving a trace."""
        if mode:
            self.cache.clear()
        return super().train(mode)

    def encode(self, vocabulary: Vocabulary) -> Tensor:
        """As `forward`, without gradient, in full precision whatever the autocast, and remembered.

        What is remembered is used again only while the vocabulary and every weight are unchanged (`WeightsVersion`).
        """
        key = (self._weights.of(self), vocabulary)
        # A copy, so that no caller can change what is remembered, nor get an inference tensor to train with.
        return self.cache.get(key, lambda: self._encode(vocabulary)).clone()

    def _encode(self, vocabulary: Vocabulary) -> Tensor:
        device = self.positional_embedding.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self(vocabulary)

    def encode_empty(self, templates: Sequence[str]) -> Tensor:
        """The feature (D,) of templates without a word: what all texts made with them have in common.

        Normalised as that of a word, without gradient, in full precision and remembered, as by `encode`.
        """
        key = (self._weights.of(self), "", tuple(templates))
        return self.cache.get(key, lambda: self._encode_empty(templates)).clone()

    def _encode_empty(self, templates: Sequence[str]) -> Tensor:
        texts = self.encode_sentences([template.replace("{}", "") for template in templates])
        return F.normalize(texts.mean(dim=0), dim=0)

    def encode_sentences(self, sentences: Sequence[str], chunk: int = 256) -> Tensor:
        """Embed whole sentences, such as captions, as they stand: without gradient, in full precision, not remembered.

        As in CLIP's retrieval, the end of a sentence that is longer than the context is cut off.

        Arguments:
          sentences: n of them.
          chunk: how many go through the tower at once.

        Returns:
          (n, D), L2-normalised.
        """
        tokens = self.tokenizer(list(sentences), context_length=self.context_length)
        with torch.no_grad(), torch.autocast(self.positional_embedding.device.type, enabled=False):
            return self.embed(tokens, chunk)

    def tokenize(self, vocabulary: Vocabulary) -> Tensor:
        """The tokens of each template of each synonym of each row, in this order, on the CPU: (texts, context length).

        Raises:
          VocabularyError: for a text that is longer than the context; the tokenizer would cut it off silently.
        """
        return tokenize(vocabulary, self.tokenizer, self.context_length)

    def embed(self, tokens: Tensor, chunk: int) -> Tensor:
        """(texts, context length) -> (texts, D), normalised, a chunk of similar length at a time."""
        ends = self._pooled_positions(tokens)
        order = ends.argsort(stable=True)
        embedded = []
        for indices in order.split(chunk):
            length = self.context_length
            if self.attn_mask is not None:
                # Attention is causal, so what comes after the position that is read has no influence on it.
                length = int(ends[indices].max()) + 1
            embedded.append(self._embed_chunk(tokens[indices, :length], ends[indices]))
        device = self.positional_embedding.device
        return torch.cat(embedded)[order.argsort().to(device)]

    def _embed_chunk(self, tokens: Tensor, ends: Tensor) -> Tensor:
        device, length = self.positional_embedding.device, tokens.shape[1]
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(tokens.to(device)).to(dtype) + self.positional_embedding[:length].to(dtype)
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length]
        x = self.transformer(x, attn_mask=mask)
        x = self.ln_final(x[torch.arange(x.shape[0], device=device), ends.to(device)])
        if isinstance(self.text_projection, nn.Linear):
            x = self.text_projection(x)
        elif self.text_projection is not None:
            x = x @ self.text_projection
        return F.normalize(x, dim=-1)

    def _pooled_positions(self, tokens: Tensor) -> Tensor:
        """The position whose state is the embedding of each text: (texts, context length) -> (texts,)."""
        if self.pool_type == "first":
            return torch.zeros(len(tokens), dtype=torch.long)
        if self.pool_type == "last":
            return torch.full((len(tokens),), tokens.shape[1] - 1)
        return tokens.argmax(dim=-1) if self.pool_type == "argmax" else (tokens == self.end_id).int().argmax(dim=-1)


def tokenize(vocabulary: Vocabulary, tokenizer: Callable[..., Tensor], context_length: int) -> Tensor:
    """The tokens of each template of each synonym of each row, in this order, on the CPU: (texts, context length).

    Raises:
      VocabularyError: for a text that is longer than the context; the tokenizer would cut it off silently.
    """
    names = [name for synonyms in vocabulary.rows for name in synonyms for _ in vocabulary.templates]
    texts = [
        template.replace("{}", name)
        for synonyms in vocabulary.rows
        for name in synonyms
        for template in vocabulary.templates
    ]
    tokens = tokenizer(texts, context_length=context_length)
    # Only a text that reaches the last position can have been cut off.
    for index in tokens[:, -1].nonzero()[:, 0].tolist():
        needed = _count_tokens(tokenizer, texts[index])
        if needed > context_length:
            raise VocabularyError(
                f'"{names[index]}" is too long: the text "{texts[index]}" needs {needed} tokens, and the text '
                f"encoder takes {context_length}; shorten the name or the template"
            )
    return tokens


def _text_tower(model: nn.Module) -> tuple[nn.Module, str, int]:
    """The module that holds the text parts, its kind of pooling, and the id of the end token."""
    tower = model if isinstance(model, CLIP) else getattr(model, "text", None)
    if not isinstance(tower, (CLIP, TextTransformer)):
        raise TypeError(f"{type(model).__name__} with {type(tower).__name__} has no TextTransformer of open_clip")
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        raise TypeError(f"{type(model).__name__} has a text tower with a class token or padding mask (CoCa)")
    if isinstance(tower, CLIP):
        pool_type, end_id = tower.text_pool_type, tower.text_eos_id
    else:
        pool_type, end_id = tower.pool_type, tower.eos_id
    if pool_type == "none":
        raise TypeError(f"{type(model).__name__} has a text tower without pooling")
    return tower, pool_type, end_id


def _count_tokens(tokenizer: Callable[..., Tensor], text: str) -> int:
    """How many tokens a text takes, start and end included."""
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer.encode(text))  # open_clip's wrapper of a Hugging Face tokenizer
