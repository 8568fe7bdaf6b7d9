"""Tests of SAM's image encoder with adapters: equal to SAM at the start, and to the formulas after it."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.guided_image_encoder import AdapterSettings, GuidedImageEncoder
from escnet.layers.semantic_adapter import SemanticAdapter, WordSignals
from escnet.pretrained.sam import SamSize, build_sam, sam_size

DIM = 12


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> Sam:
    """A SAM with windows that do not divide its grid of 20 by 20 cells, and two global blocks."""
    size = SamSize(
        channels=32, heads=2, mlp_dim=32, image_size=160, patch_size=8, encoder_dim=24, encoder_depth=4,
        encoder_heads=2, global_blocks=(1, 3),
    )  # fmt: skip
    monkeypatch.setattr("escnet.pretrained.sam.SAM_SIZES", {"windows": size})
    torch.manual_seed(0)
    built = build_sam("windows")
    for parameter in built.image_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


def signals(words: int, images: list[int], grid: tuple[int, int] = (5, 5)) -> tuple[Tensor, WordSignals]:
    """Dense features of the images, and words, some in each."""
    generator = torch.Generator().manual_seed(1)
    vision = torch.randn(max(images) + 1, DIM, *grid, generator=generator)
    text = F.normalize(torch.randn(words, DIM, generator=generator), dim=-1)
    rows = torch.tensor(images)
    return vision, WordSignals(text, torch.einsum("pd,pdhw->phw", text, vision[rows]), rows)


def learned(encoder: GuidedImageEncoder) -> GuidedImageEncoder:
    """The same after some training, as far as its adapters are concerned."""
    torch.manual_seed(2)
    for module in (encoder.plain, encoder.semantic):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def by_the_formulas(encoder: GuidedImageEncoder, image: Tensor, vision: Tensor, word: WordSignals) -> Tensor:
    """One image with one word, block by block, as the paper and segment_anything write it."""
    sam, settings = encoder.encoder, encoder.settings
    x = sam.patch_embed(image) + sam.pos_embed
    for number, block in enumerate(sam.blocks):
        # The block without its MLP is its attention with the residual connection.
        mlp, block.mlp = block.mlp, torch.nn.Identity()
        norm, block.norm2 = block.norm2, torch.nn.Module()
        block.norm2.forward = torch.zeros_like
        attended = block(x) - x
        block.mlp, block.norm2 = mlp, norm
        if str(number) in encoder.plain:
            adapter = encoder.plain[str(number)]
            said = adapter.up(F.gelu(adapter.down(attended)))
            attended = attended + settings.scale * (said + attended if settings.inner_skip else said)
        x = x + attended
        n = block.norm2(x)
        update = block.mlp(n)
        if str(number) in encoder.semantic:
            adapter = encoder.semantic[str(number)]
            total = n
            if adapter.text is not None:
                total = total + F.gelu(adapter.text(word.text))[:, None, None]
            if adapter.vision is not None:
                v = vision.permute(0, 2, 3, 1) if "vision" in adapter.signals else torch.zeros(1, 5, 5, DIM)
                s = word.similarity[..., None] if "similarity" in adapter.signals else 0.0
                u = adapter.vision(v + s).permute(0, 3, 1, 2)
                u = F.interpolate(u, x.shape[1:3], mode="bilinear", align_corners=False)
                total = total + u.permute(0, 2, 3, 1)
            update = update + settings.scale * adapter.up(F.gelu(adapter.down(total)))
        x = x + update
    return sam.neck(x.permute(0, 3, 1, 2))


def test_at_the_start_it_is_sam_to_the_bit(sam: Sam) -> None:
    image = torch.randn(1, 3, 160, 160)
    vision, words = signals(3, [0, 0, 0])
    with torch.no_grad():
        expected = sam.image_encoder(image)
        encoder = GuidedImageEncoder(sam.image_encoder, DIM, AdapterSettings())
        state = encoder.begin(image, vision)
        assert torch.equal(encoder.finish(state, None), expected)
        one = words._replace(text=words.text[:1], similarity=words.similarity[:1], images=words.images[:1])
        assert torch.equal(encoder.finish(state, one), expected)
        # More of them at once may be added up in another order.
        torch.testing.assert_close(encoder.finish(state, words), expected.expand(3, -1, -1, -1))


@pytest.mark.parametrize(
    "settings",
    [
        AdapterSettings(),
        AdapterSettings(scale=0.5, inner_skip=True),
        AdapterSettings(kinds=("semantic",), blocks=(-2, 1)),
        AdapterSettings(blocks=(-1,)),
        AdapterSettings(signals=("text",)),
        AdapterSettings(signals=("vision",)),
        AdapterSettings(signals=("similarity",)),
        AdapterSettings(signals=("text", "similarity")),
        AdapterSettings(signals=()),
        AdapterSettings(kinds=("plain",)),
    ],
    ids=str,
)
def test_each_word_is_what_the_formulas_say(sam: Sam, settings: AdapterSettings) -> None:
    encoder = learned(GuidedImageEncoder(sam.image_encoder, DIM, settings))
    images = torch.randn(2, 3, 160, 160)
    vision, words = signals(3, [1, 0, 1])
    with torch.no_grad():
        found = encoder.finish(encoder.begin(images, vision), words)
        for number, row in enumerate(words.images.tolist()):
            word = WordSignals(*(part[number : number + 1] for part in words))
            expected = by_the_formulas(encoder, images[row : row + 1], vision[row : row + 1], word)
            torch.testing.assert_close(found[number : number + 1], expected, atol=2e-4, rtol=1e-4)


def test_words_of_one_image_are_those_of_several(sam: Sam) -> None:
    encoder = learned(GuidedImageEncoder(sam.image_encoder, DIM, AdapterSettings(blocks=(-2, -1))))
    image = torch.randn(1, 3, 160, 160)
    vision, words = signals(4, [0, 0, 0, 0])
    with torch.no_grad():
        together = encoder.finish(encoder.begin(image, vision), words)
        twice = encoder.begin(image.expand(2, -1, -1, -1), vision.expand(2, -1, -1, -1))
        apart = encoder.finish(twice, words._replace(images=torch.tensor([0, 1, 0, 1])))
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


@pytest.mark.parametrize("signals_of_it", [("vision",), ()])
def test_without_signals_of_words_all_words_share_the_features(sam: Sam, signals_of_it: tuple[str, ...]) -> None:
    encoder = learned(GuidedImageEncoder(sam.image_encoder, DIM, AdapterSettings(signals=signals_of_it)))
    assert not encoder.hears_words
    vision, words = signals(2, [0, 0])
    with torch.no_grad():
        features = encoder.finish(encoder.begin(torch.randn(1, 3, 160, 160), vision), words)
    assert torch.equal(features[0], features[1])


def test_gradients_are_those_of_the_formulas_with_and_without_recomputing(sam: Sam) -> None:
    image = torch.randn(1, 3, 160, 160)
    vision, words = signals(1, [0])
    gradients = []
    for recompute in (False, True, None):
        encoder = learned(GuidedImageEncoder(sam.image_encoder, DIM, AdapterSettings(), bool(recompute)))
        encoder.zero_grad()
        own = vision.clone().requires_grad_()
        if recompute is None:
            features = by_the_formulas(encoder, image, own, words)
        else:
            features = encoder.finish(encoder.begin(image, own), words)
        features.square().mean().backward()
        gradients.append([own.grad, *(p.grad.clone() for p in encoder.semantic.parameters())])
    for recomputed, kept, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept)
        torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-3)


def test_the_adapters_of_vit_b_have_the_published_number_of_parameters() -> None:
    size = sam_size("vit_b")
    with torch.device("meta"):
        encoder = GuidedImageEncoder(build_sam("vit_b").image_encoder, 512, AdapterSettings())
    count = sum(p.numel() for module in (encoder.plain, encoder.semantic) for p in module.parameters())
    assert count == 16_556_544
    assert len(encoder.plain) == len(encoder.semantic) == size.encoder_depth


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"blocks": (4,)}, "blocks 0 to 3"),
        ({"blocks": (-5,)}, "-4 to -1"),
        ({"bottleneck": 0.01}, "BOTTLENECK is 0.01"),
        ({"signals": ("text", "sound")}, "SIGNALS has 'sound'"),
        ({"kinds": ("serial",)}, "ADAPTERS has 'serial'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sam: Sam, settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GuidedImageEncoder(sam.image_encoder, DIM, AdapterSettings(**settings))


def test_an_adapter_alone_takes_images_without_words() -> None:
    torch.manual_seed(0)
    adapter = SemanticAdapter(8, 4, DIM, zero_start=False)
    vision, words = signals(2, [0, 0])
    tokens = torch.randn(1, 5, 5, 8)
    seen = adapter.seen(vision, (5, 5))
    without = adapter(tokens, seen)
    assert without.shape == (1, 5, 5, 8)
    assert not torch.allclose(adapter(tokens.expand(2, -1, -1, -1), seen, words)[0], without[0])
