"""CLIP's text tower for export, and its tokenizer as a file of the `tokenizers` library."""

from __future__ import annotations

from open_clip.tokenizer import SimpleTokenizer
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from torch import Tensor, nn

from escnet.layers.clip_text_encoder import ClipTextEncoder

# What CLIP's tokenizer takes for a piece of a text (Radford et al., the published `simple_tokenizer`).
_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class EmbedTexts(nn.Module):
    """Tokens (T, L) to normalised features (T, D), of a tower that reads the position of the end token."""

    def __init__(self, encoder: ClipTextEncoder) -> None:
        super().__init__()
        if encoder.attn_mask is None or encoder.pool_type not in ("argmax", "eos"):
            raise ValueError(
                f'a text tower that pools by "{encoder.pool_type}" cannot be exported; take a CLIP that reads the end '
                "of a text through causal attention"
            )
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """L is the context length."""
        return self.encoder._embed_chunk(tokens, self.encoder._pooled_positions(tokens))


def tokenizer_file(tokenizer: SimpleTokenizer) -> str:
    """The text of a tokenizer.json that cuts cleaned text as a tokenizer of open_clip does, without start and end.

    Cleaning (ftfy, HTML entities, spaces, case) is left to the caller.

    Raises:
        ValueError: for a tokenizer of another kind.
    """
    if type(tokenizer) is not SimpleTokenizer:
        raise ValueError(f"a {type(tokenizer).__name__} cannot be exported; take a CLIP with open_clip's own tokenizer")
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    found = Tokenizer(BPE(vocab=tokenizer.encoder, merges=merges, end_of_word_suffix="</w>"))
    pieces = Split(Regex(_PIECES), behavior="removed", invert=True)
    found.pre_tokenizer = Sequence([pieces, ByteLevel(add_prefix_space=False, use_regex=False)])
    special = [tokenizer.decoder[number] for number in tokenizer.all_special_ids]
    found.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return found.to_str()
