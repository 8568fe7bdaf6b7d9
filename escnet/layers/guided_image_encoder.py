"""SAM's image encoder with adapters, which words can enter (CLIP-Guided SAM, sec. 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.chunking import run_chunk
from escnet.layers.sam_patches import embed_patches
from escnet.layers.semantic_adapter import SIGNALS, Adapter, SemanticAdapter, WordSignals
from escnet.layers.striped_attention import use_striped_attention

ADAPTERS = ("plain", "semantic")


@dataclass(frozen=True)
class AdapterSettings:
    """Which adapters there are.

    Attributes:
        kinds: of `ADAPTERS`: plain ones in all blocks, semantic ones in `blocks`.
        blocks: numbers as Python counts, from 0 or, from the end, from -1; () for all.
        bottleneck: channels of their hidden layers, as a share of the encoder's.
        scale: factor of what they say.
        zero_start: they begin with nothing to say.
        inner_skip: a plain adapter adds its input too.
        signals: of `SIGNALS`, what enters the semantic ones.

    Raises:
        ValueError: for an unknown kind or signal.
    """

    kinds: tuple[str, ...] = ADAPTERS
    blocks: tuple[int, ...] = ()
    bottleneck: float = 0.25
    scale: float = 1.0
    zero_start: bool = True
    inner_skip: bool = False
    signals: tuple[str, ...] = SIGNALS

    def __post_init__(self) -> None:
        for key, values, known in (("ADAPTERS", self.kinds, ADAPTERS), ("SIGNALS", self.signals, SIGNALS)):
            unknown = [value for value in values if value not in known]
            if unknown:
                raise ValueError(f"MODEL.GUIDED.{key} has {unknown[0]!r}; there are {', '.join(known)}")

    def semantic_blocks(self, depth: int) -> list[int]:
        """The blocks that have a semantic adapter, in order.

        Raises:
            ValueError: a number that no block has.
        """
        if "semantic" not in self.kinds:
            return []
        for number in self.blocks:
            if type(number) is not int or not -depth <= number < depth:
                raise ValueError(
                    f"MODEL.GUIDED.BLOCKS has {number!r}; SAM's image encoder has the blocks 0 to {depth - 1}, or "
                    f"{-depth} to -1 from the end"
                )
        return sorted({number % depth for number in self.blocks or range(depth)})


class SharedState(NamedTuple):
    """What is the same for all words of B images.

    Attributes:
        tokens: (B,h,w,W) after the block before which all is the same, without its adapter; after the last one if
            words enter none.
        hidden: (B,h,w,r) what the first semantic adapter has of these tokens; None without such adapters.
        seen: (B,h,w,r) what the images' dense features add in each block that has such an adapter, or None.
    """

    tokens: Tensor
    hidden: Tensor | None
    seen: list[Tensor | None]

    def of_images(self, rows: Tensor | slice) -> SharedState:
        """That of some of the images."""
        hidden = None if self.hidden is None else self.hidden[rows]
        return SharedState(self.tokens[rows], hidden, [None if seen is None else seen[rows] for seen in self.seen])


class GuidedImageEncoder(nn.Module):
    """SAM's image encoder with a plain adapter on the output of attention, and a semantic one beside the MLP.

        x ← x + a + scale · P(a),            a = attention(LN1(x))
        x ← x + MLP(n) + scale · S(n, word), n = LN2(x)

    Adapters that start at zero leave SAM as it is, to the bit. Attention pads its windows after the norm, with zeros,
    as SAM does; a plain adapter works on each token alone, so that it is spared the padding.

    A word enters by semantic adapters alone. What is before the first of them, and that block's attention and MLP, is
    the same for all words of an image: `begin` computes it once, and `finish` what is left for each word.

    Arguments:
      encoder: segment_anything's module; its parameters are this module's.
      signal_dim: channels of CLIP's features.
      settings: which adapters there are.
      recompute: compute the activations of each block again in the backward pass.

    Raises:
      ValueError: for settings that do not fit the encoder.
    """

    def __init__(
        self, encoder: ImageEncoderViT, signal_dim: int, settings: AdapterSettings, recompute: bool = False
    ) -> None:
        super().__init__()
        self.encoder = use_striped_attention(encoder)
        width: int = encoder.patch_embed.proj.out_channels
        depth, bottleneck = len(encoder.blocks), int(settings.bottleneck * width)
        if bottleneck < 1:
            raise ValueError(
                f"MODEL.GUIDED.BOTTLENECK is {settings.bottleneck:g}, which leaves no channel of the {width} of SAM's "
                "image encoder; raise it"
            )
        self.patch_size: int = encoder.patch_embed.proj.kernel_size[0]
        self.semantic_blocks: Sequence[int] = settings.semantic_blocks(depth)
        self.settings, self.recompute = settings, recompute
        plain = range(depth) if "plain" in settings.kinds else ()
        self.plain = nn.ModuleDict({str(i): Adapter(width, bottleneck, settings.zero_start) for i in plain})
        self.semantic = nn.ModuleDict({
            str(i): SemanticAdapter(width, bottleneck, signal_dim, settings.zero_start, settings.signals)
            for i in self.semantic_blocks
        })  # fmt: skip

    @property
    def hears_words(self) -> bool:
        """Whether the features depend on words at all."""
        return bool(self.semantic_blocks) and bool({"text", "similarity"} & set(self.settings.signals))

    def begin(self, images: Tensor, vision: Tensor) -> SharedState:
        """What is the same for all words.

        Arguments:
          images: (B,3,R1,R2), normalised as SAM's are; R1 and R2 are multiples of the patches.
          vision: (B,D,h',w') CLIP's dense features of them.

        Raises:
          ValueError: for images of another shape.
        """
        tokens = embed_patches(self.encoder, images)
        grid, first = tuple(tokens.shape[1:3]), min(self.semantic_blocks, default=len(self.encoder.blocks))
        for number in range(first):
            tokens = self._run(self._plain_block, number, tokens)
        if not self.semantic_blocks:
            return SharedState(tokens, None, [])
        tokens, hidden = self._run(self._first_block, first, tokens)
        return SharedState(tokens, hidden, [adapter.seen(vision, grid) for adapter in self.semantic.values()])

    def finish(self, state: SharedState, words: WordSignals | None) -> Tensor:
        """SAM's image embedding for each word.

        Arguments:
          state: of B images.
          words: P of them, with similarities on CLIP's grid; None for each image by itself, with what of CLIP's signals
            does not depend on words.

        Returns:
          (P,C,h,w), or (B,C,h,w) without words.
        """
        if words is not None and not self.hears_words:
            return self.finish(state, None)[words.images]
        if words is not None:
            words = words._replace(similarity=_to_grid(words.similarity, tuple(state.tokens.shape[1:3])))
            # One image is not copied for each of its words.
            state = state if len(state.tokens) == 1 else state.of_images(words.images)
        tokens, seen = state.tokens, dict(zip(self.semantic_blocks, state.seen, strict=True))
        for number in range(min(self.semantic_blocks, default=len(self.encoder.blocks)), len(self.encoder.blocks)):
            if number not in seen:
                tokens = self._run(self._plain_block, number, tokens)
            elif number == self.semantic_blocks[0]:
                tokens = self._run(self._enter, number, tokens, state.hidden, seen[number], words)
            else:
                tokens = self._run(self._semantic_block, number, tokens, seen[number], words)
        return self.encoder.neck(tokens.permute(0, 3, 1, 2))

    def _run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        return run_chunk(step, *arguments, recompute=self.recompute)

    def _plain_block(self, number: int, tokens: Tensor) -> Tensor:
        tokens = self._attend(number, tokens)
        block = self.encoder.blocks[number]
        return tokens + block.mlp(block.norm2(tokens))

    def _semantic_block(self, number: int, tokens: Tensor, seen: Tensor | None, words: WordSignals | None) -> Tensor:
        block, adapter = self.encoder.blocks[number], self.semantic[str(number)]
        tokens = self._attend(number, tokens)
        normalised = block.norm2(tokens)
        return tokens + (block.mlp(normalised) + self.settings.scale * adapter(normalised, seen, words))

    def _first_block(self, number: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """A semantic block but for its adapter: its output (B,h,w,W), and what the adapter has of it (B,h,w,r)."""
        block = self.encoder.blocks[number]
        tokens = self._attend(number, tokens)
        normalised = block.norm2(tokens)
        return tokens + block.mlp(normalised), self.semantic[str(number)].down(normalised)

    def _enter(
        self, number: int, tokens: Tensor, hidden: Tensor, seen: Tensor | None, words: WordSignals | None
    ) -> Tensor:
        """What the adapter of that block says of each word, added: (P,h,w,W)."""
        adapter = self.semantic[str(number)]
        return tokens + self.settings.scale * adapter.finish(adapter.heard(hidden, seen, words))

    def _attend(self, number: int, tokens: Tensor) -> Tensor:
        """The first half of a block, with its plain adapter: (B,h,w,W) -> (B,h,w,W)."""
        attended = _attention(self.encoder.blocks[number], tokens)
        if str(number) in self.plain:
            said = self.plain[str(number)](attended)
            if self.settings.inner_skip:
                said = attended + said
            attended = attended + self.settings.scale * said
        return tokens + attended


def _attention(block: Block, tokens: Tensor) -> Tensor:
    """The attention of a block of segment_anything without its residual connection: (B,h,w,W) -> (B,h,w,W)."""
    normalised = block.norm1(tokens)
    if block.window_size == 0:
        return block.attn(normalised)
    grid = tuple(tokens.shape[1:3])
    windows, padded = window_partition(normalised, block.window_size)
    return window_unpartition(block.attn(windows), block.window_size, padded, grid)


def _to_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(P,h',w') maps on another grid, (P,h,w), bilinear."""
    return F.interpolate(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
