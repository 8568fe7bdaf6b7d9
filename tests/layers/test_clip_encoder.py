"""Tests of the CLIP encoders against open_clip's own towers and against computations written out token by token."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP, resize_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.clip_image_encoder import ClipImageEncoder, interpolate_positions
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.vocabulary import Vocabulary, VocabularyError

VISION = {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
WORDS = Vocabulary(["building, edifice", "cat", "a very long name of a thing"], ["sky"], ["a photo of a {}", "the {}."])


def make_clip(kind: type = CLIP, seed: int = 0, text: dict | None = None, **vision: object) -> nn.Module:
    torch.manual_seed(seed)
    model = kind(24, {**VISION, **vision}, {**TEXT, **(text or {})}, quick_gelu=True).eval()
    with torch.no_grad():  # what open_clip starts at zero or one would hide an error
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name != "visual.class_embedding":
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def make_images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


TOWERS = {
    "plain": {},
    "average": {"pool_type": "avg"},
    "average then norm": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "token then norm": {"final_ln_after_pool": True},
    "layer scale": {"ls_init_value": 0.3},
    "not square": {"image_size": (32, 48)},
    "fixed positions": {"pos_embed_type": "sin_cos_2d"},
}


@pytest.mark.parametrize("vision", TOWERS.values(), ids=TOWERS)
def test_pooled_equals_encode_image(vision: dict) -> None:
    model = make_clip(**vision)
    images = make_images(2, *model.visual.image_size)
    with torch.no_grad():
        torch.testing.assert_close(
            ClipImageEncoder(model.visual)(images).pooled, model.encode_image(images), atol=1e-5, rtol=0
        )


def test_pooled_is_computed_only_if_asked() -> None:
    model = make_clip()
    encoder = ClipImageEncoder(model.visual)
    images = make_images(1, 32, 32)
    complete = encoder(images)
    model.visual.transformer.resblocks[-1].attn.forward = None  # must not be called
    features = encoder(images, pooled=False)
    assert features.pooled is None
    torch.testing.assert_close(features.dense, complete.dense)


@pytest.mark.slow
def test_pooled_at_full_size() -> None:
    torch.manual_seed(0)
    visual = CLIP(**{**open_clip.get_model_config("ViT-B-16-quickgelu"), "text_cfg": TEXT}).visual.eval()
    encoder = ClipImageEncoder(visual)
    assert encoder.level_blocks == (4, 8)
    with torch.no_grad():
        images = make_images(1, 224, 224)
        torch.testing.assert_close(encoder(images).pooled, visual(images), atol=1e-5, rtol=1e-5)

        images = make_images(1, 384, 384)
        features = encoder(images)
        assert features.dense.shape == (1, 512, 24, 24)
        assert [level.shape for level in features.levels] == [(1, 768, 24, 24)] * 2
        positions = interpolate_positions(visual.positional_embedding, (14, 14), (24, 24))
        visual.positional_embedding = nn.Parameter(positions)
        torch.testing.assert_close(features.pooled, visual(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(2, (1, 1)), (3, (1, 2)), (4, (1, 3)), (6, (2, 4)), (12, (4, 8)), (24, (8, 16)), (32, (11, 21))],
)
def test_levels_are_the_states_after_one_and_two_thirds(depth: int, blocks: tuple[int, int]) -> None:
    visual = make_clip(layers=depth).visual
    encoder = ClipImageEncoder(visual)
    assert (encoder.depth, encoder.level_blocks) == (depth, blocks)
    images = make_images(2, 32, 32)
    reference = visual.forward_intermediates(images, indices=[block - 1 for block in sorted(set(blocks))])
    expected = dict(zip(sorted(set(blocks)), reference["image_intermediates"], strict=True))
    for level, block in zip(encoder(images).levels, blocks, strict=True):
        torch.testing.assert_close(level, expected[block])


def normalise(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.pow(2).mean() + norm.eps).sqrt() * norm.weight + norm.bias


def last_input(visual: nn.Module, image: Tensor) -> Tensor:
    """The tokens before the last block, (1+h·w,W), by open_clip's own modules."""
    x = visual._embeds(image[None])
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    return x[0]


def finish(visual: nn.Module, token: Tensor, attended: Tensor, residual: bool) -> Tensor:
    """One token from the output of the attention branch to its dense feature."""
    block = visual.transformer.resblocks[-1]
    x = F.linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias)
    if residual:
        x = token + x
        hidden = F.linear(normalise(x, block.ln_2), block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        x = x + F.linear(hidden * torch.sigmoid(1.702 * hidden), block.mlp.c_proj.weight, block.mlp.c_proj.bias)
    feature = visual.proj.T @ normalise(x, visual.ln_post)
    return feature / feature.norm()


@pytest.mark.parametrize("residual", [True, False])
def test_dense_value_path_token_by_token(residual: bool) -> None:
    visual = make_clip().visual
    block = visual.transformer.resblocks[-1]
    images = make_images(2, 24, 40)  # a 3×5 grid, by positions that the next test compares
    with torch.no_grad():
        dense = ClipImageEncoder(visual, "value", residual)(images).dense
        assert dense.shape == (2, 24, 3, 5)
        visual.positional_embedding.data = interpolate_positions(visual.positional_embedding, (4, 4), (3, 5))
        tokens = last_input(visual, images[1])
        for index in range(15):
            token = tokens[1 + index]
            value = F.linear(normalise(token, block.ln_1), block.attn.in_proj_weight[64:], block.attn.in_proj_bias[64:])
            expected = finish(visual, token, value, residual)
            torch.testing.assert_close(dense[1, :, index // 5, index % 5], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("kind", ["qq", "kk", "vv", "qk"])
def test_dense_attention_written_out(kind: str, residual: bool) -> None:
    visual = make_clip().visual
    block = visual.transformer.resblocks[-1]
    image = make_images(1, 32, 32)
    with torch.no_grad():
        dense = ClipImageEncoder(visual, kind, residual)(image).dense[0]
        tokens = last_input(visual, image[0])
        projected = [
            F.linear(normalise(token, block.ln_1), block.attn.in_proj_weight, block.attn.in_proj_bias)
            for token in tokens
        ]
        parts = {letter: torch.stack([x.chunk(3)[i] for x in projected]) for i, letter in enumerate("qkv")}
        queries, keys, values = parts[kind[0]], parts[kind[1]], parts["v"]
        for index in range(16):
            heads = []
            for head in (slice(0, 16), slice(16, 32)):
                scores = torch.stack([queries[1 + index, head] @ key / math.sqrt(16) for key in keys[:, head]])
                weights = scores.exp() / scores.exp().sum()
                heads.append(sum(weight * value for weight, value in zip(weights, values[:, head], strict=True)))
            expected = finish(visual, tokens[1 + index], torch.cat(heads), residual)
            torch.testing.assert_close(dense[:, index // 4, index % 4], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("blocks", [2, 3])
def test_a_path_of_value_value_attention_beside_the_plain_one(blocks: int, residual: bool) -> None:
    visual = make_clip(ls_init_value=0.3).visual
    images = make_images(2, 32, 40)
    with torch.no_grad():
        plain = ClipImageEncoder(visual)(images)
        found = ClipImageEncoder(visual, "vv", residual, blocks)(images, projected=True)
        tokens = ClipImageEncoder(visual)._embed(images, (4, 5))
        path = torch.zeros_like(tokens)
        for number, block in enumerate(visual.transformer.resblocks):
            if number == 3 - blocks and residual:
                path = tokens
            if number >= 3 - blocks:
                values = F.linear(
                    block.ln_1(tokens), *(p[64:] for p in (block.attn.in_proj_weight, block.attn.in_proj_bias))
                )
                values = values.unflatten(-1, (2, 16)).transpose(1, 2)
                attended = (values @ values.mT / 4).softmax(dim=-1) @ values
                path = path + block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
            tokens = block(tokens)
        expected = (visual.ln_post(path)[:, 1:] @ visual.proj).mT.unflatten(2, (4, 5))
    torch.testing.assert_close(found.projected, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.dense, F.normalize(expected, dim=1), atol=1e-5, rtol=0)
    # The plain path is as it was.
    assert torch.equal(found.pooled, plain.pooled)
    assert all(torch.equal(*levels) for levels in zip(found.levels, plain.levels, strict=True))
    assert plain.projected is None


def test_dense_features_have_length_one_and_layer_scale() -> None:
    visual = make_clip(ls_init_value=0.3).visual
    images = make_images(1, 32, 32)
    dense = ClipImageEncoder(visual, "qk")(images).dense
    ordinary = visual.ln_post(visual.transformer(visual._embeds(images)))[:, 1:] @ visual.proj
    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), F.normalize(ordinary, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(1, 4, 4))


@pytest.mark.parametrize("size", [336, 384, 448, (160, 352)])
def test_positions_interpolate_to_any_grid(size: int | tuple[int, int]) -> None:
    model = make_clip(image_size=224, patch_size=16, layers=2)
    other = make_clip(image_size=size, patch_size=16, layers=2, seed=1)
    height, width = other.visual.image_size
    state = model.state_dict()
    resize_pos_embed(state, other)
    positions = interpolate_positions(model.visual.positional_embedding, (14, 14), (height // 16, width // 16))
    torch.testing.assert_close(positions, state["visual.positional_embedding"])
    other.load_state_dict(state)
    images = make_images(1, height, width)
    features = ClipImageEncoder(model.visual)(images)
    torch.testing.assert_close(features.pooled, other.encode_image(images), atol=1e-5, rtol=0)
    assert features.dense.shape == (1, 24, height // 16, width // 16)


@pytest.mark.parametrize("settings", [("kk",), ("vv", True, 2)])
def test_gradient_flows_through_interpolated_positions_and_checkpoints(settings: tuple) -> None:
    model = make_clip()
    encoder = ClipImageEncoder(model.visual, *settings)
    images = make_images(1, 40, 24)
    gradients = []
    for checkpointed in (False, True):
        encoder.zero_grad()
        encoder.visual.set_grad_checkpointing(checkpointed)
        features = encoder(images)
        (features.dense.square().sum() + features.dense[:, 0].sum() + features.pooled.sum()).backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    assert model.visual.positional_embedding.grad[1:].abs().sum() > 0
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_patch_dropout_is_not_applied_to_maps() -> None:
    model = make_clip(patch_dropout=0.5)
    encoder = ClipImageEncoder(model.visual)
    images = make_images(1, 32, 32)
    expected = encoder.eval()(images)
    trained = encoder.train()(images)
    torch.testing.assert_close(trained.dense, expected.dense)
    torch.testing.assert_close(trained.pooled, model.eval().encode_image(images), atol=1e-5, rtol=0)


def test_works_under_autocast() -> None:
    encoder = ClipImageEncoder(make_clip().visual, "qq")
    images = make_images(1, 40, 32)
    with torch.no_grad():
        exact = encoder(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = encoder(images)
    torch.testing.assert_close(rough.dense.float(), exact.dense, atol=0.05, rtol=0)
    torch.testing.assert_close(rough.pooled.float(), exact.pooled, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("shape", [(1, 3, 32, 33), (1, 3, 0, 32), (1, 3, 4, 32), (1, 4, 32, 32), (3, 32, 32)])
def test_refuses_images_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"patch size, 8|must be"):
        ClipImageEncoder(make_clip().visual)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("vision", "name"),
    [
        ({"layers": [1, 1, 1, 1]}, "ModifiedResNet"),
        ({"attentional_pool": True}, "AttentionalPooler"),
        ({"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}, "TimmModel"),
        ({"qk_norm": True}, "CustomResidualAttentionBlock"),
    ],
)
def test_refuses_towers_that_are_not_plain(vision: dict, name: str) -> None:
    visual = CLIP(24, {**VISION, **vision}, TEXT).visual
    with pytest.raises(TypeError, match=name):
        ClipImageEncoder(visual)


def test_refuses_unknown_dense_attention_and_shallow_towers() -> None:
    with pytest.raises(ValueError, match="value, qq, kk, vv, qk"):
        ClipImageEncoder(make_clip().visual, "qv")
    for blocks in (0, 4):
        with pytest.raises(ValueError, match=f"DENSE_BLOCKS is {blocks}, and the image tower has 3 blocks"):
            ClipImageEncoder(make_clip().visual, "vv", dense_blocks=blocks)
    with pytest.raises(ValueError, match="at least 2"):
        ClipImageEncoder(make_clip(layers=1).visual)


TEXT_TOWERS = {
    "clip": (CLIP, {}),
    "custom text": (CustomTextCLIP, {}),
    "projection with bias": (CustomTextCLIP, {"proj_bias": True}),
    "end token": (CLIP, {"pool_type": "eos", "eos_id": 49407}),
    "last token, not causal": (CLIP, {"pool_type": "last", "no_causal_mask": True}),
    "first token, not causal": (CustomTextCLIP, {"pool_type": "first", "no_causal_mask": True}),
    "no causal mask": (CLIP, {"no_causal_mask": True}),
}


def make_text_encoder(kind: type = CLIP, text: dict | None = None) -> tuple[nn.Module, ClipTextEncoder]:
    model = make_clip(kind, text=text)
    return model, ClipTextEncoder(model, open_clip.get_tokenizer("ViT-B-16"))


def reference_rows(model: nn.Module, vocabulary: Vocabulary) -> Tensor:
    """Each text alone by open_clip at its full length, and the means by hand."""
    rows = []
    for synonyms in vocabulary.rows:
        names = []
        for name in synonyms:
            texts = [template.format(name) for template in vocabulary.templates]
            embedded = [model.encode_text(open_clip.tokenize(text))[0] for text in texts]
            mean = sum(x / x.norm() for x in embedded) / len(embedded)
            names.append(mean / mean.norm())
        mean = sum(names) / len(names)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@pytest.mark.parametrize(("kind", "text"), TEXT_TOWERS.values(), ids=TEXT_TOWERS)
def test_text_equals_encode_text(kind: type, text: dict) -> None:
    model, encoder = make_text_encoder(kind, text)
    with torch.no_grad():
        expected = reference_rows(model, WORDS)
        for chunk in (256, 3):
            torch.testing.assert_close(encoder(WORDS, chunk), expected, atol=1e-5, rtol=0)


def test_causal_texts_are_cut_off_after_the_longest() -> None:
    _, encoder = make_text_encoder()
    lengths: list[int] = []
    encoder.transformer.register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[0].shape[1]))
    encoder(Vocabulary(["cat", "dog"]))  # start, a, photo, of, a, cat, end
    assert lengths == [7]


def test_the_encoders_share_no_parameter() -> None:
    model, text = make_text_encoder()
    both = nn.ModuleList([ClipImageEncoder(model.visual), text])
    names = [name for name, _ in both.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(both.parameters())) == len(list(model.parameters())) - 1  # all but the logit scale


def test_gradient_reaches_the_text_tower() -> None:
    _, encoder = make_text_encoder()
    encoder(WORDS)[:, 0].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_over_long_names_are_refused_by_name() -> None:
    _, encoder = make_text_encoder()
    fits = " ".join(["cat"] * 71)  # with "a photo of a", start and end: 77
    encoder(Vocabulary([fits]))
    too_long = "dog, " + " ".join(["cat"] * 72)
    with pytest.raises(VocabularyError, match=r'"cat cat.* needs 78 tokens.*77'):
        encoder.encode(Vocabulary(["tree", too_long]))


def test_over_long_names_with_a_hugging_face_tokenizer() -> None:
    class Inner:
        def encode(self, text: str) -> list[int]:
            return [1, *[5] * len(text.split()), 2]

    class Tokenizer:
        tokenizer = Inner()

        def __call__(self, texts: list[str], context_length: int) -> Tensor:
            rows = [(self.tokenizer.encode(text) + [0] * context_length)[:context_length] for text in texts]
            return torch.tensor(rows)

    encoder = ClipTextEncoder(make_clip(text={"context_length": 8, "vocab_size": 10}), Tokenizer())
    encoder.tokenize(Vocabulary(["one two"]))
    with pytest.raises(VocabularyError, match="needs 9 tokens"):
        encoder.tokenize(Vocabulary(["one two three"]))


def test_two_vocabularies_in_turn() -> None:
    model, encoder = make_text_encoder()
    animals, things = Vocabulary(["cat", "dog"]), Vocabulary(["car", "road", "sky"])
    calls: list[int] = []
    encoder.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    for vocabulary in (animals, things, animals, things):
        torch.testing.assert_close(
            encoder.encode(vocabulary), reference_rows(model, vocabulary).detach(), atol=1e-5, rtol=0
        )
    calls_of_reference = 4 + 6
    assert len(calls) - calls_of_reference == 2
    other_templates = Vocabulary(["cat", "dog"], templates="the {}")
    torch.testing.assert_close(
        encoder.encode(other_templates), reference_rows(model, other_templates).detach(), atol=1e-5, rtol=0
    )


def test_templates_without_a_word_have_a_feature() -> None:
    model, encoder = make_text_encoder()
    texts = model.encode_text(encoder.tokenizer(["a photo of a ", "the ."]), normalize=True).detach()
    found = encoder.encode_empty(WORDS.templates)
    torch.testing.assert_close(found, F.normalize(texts.mean(dim=0), dim=0), atol=1e-5, rtol=0)
    found.zero_()
    assert encoder.encode_empty(WORDS.templates).norm() > 0.99 and encoder.encode(WORDS).ndim == 2
    assert not torch.equal(encoder.encode_empty(WORDS.templates[:1]), encoder.encode_empty(WORDS.templates))
    load_other_weights(encoder)
    assert not torch.allclose(F.normalize(texts.mean(dim=0), dim=0), encoder.encode_empty(WORDS.templates), atol=0.01)


def optimiser_step(encoder: ClipTextEncoder) -> None:
    optimiser = torch.optim.SGD(encoder.parameters(), lr=1.0)
    encoder(WORDS)[:, 0].sum().backward()
    optimiser.step()


def load_other_weights(encoder: ClipTextEncoder) -> None:
    encoder.load_state_dict(ClipTextEncoder(make_clip(seed=7), encoder.tokenizer).state_dict())


@torch.no_grad()
def edit_one_number(encoder: ClipTextEncoder) -> None:
    encoder.transformer.resblocks[0].mlp.c_fc.weight[17, 5] += 2.0


@torch.no_grad()
def swap_rows(encoder: ClipTextEncoder) -> None:
    embedding = encoder.token_embedding.weight
    embedding.copy_(embedding.flip(0))


def replace_parameter(encoder: ClipTextEncoder) -> None:
    encoder.ln_final.weight = nn.Parameter(encoder.ln_final.weight.detach() + torch.linspace(0, 1, 32))


@pytest.mark.parametrize(
    "change",
    [optimiser_step, load_other_weights, edit_one_number, swap_rows, replace_parameter],
)
def test_the_cache_is_never_stale(change: Callable[[ClipTextEncoder], None]) -> None:
    _, encoder = make_text_encoder()
    before = encoder.encode(WORDS)
    change(encoder)
    after = encoder.encode(WORDS)
    assert not torch.allclose(before, after, atol=1e-6)
    torch.testing.assert_close(after, encoder(WORDS).detach())


def test_encoded_text_is_safe_to_change_and_to_train_with() -> None:
    _, encoder = make_text_encoder()
    with torch.inference_mode():
        first = encoder.encode(WORDS).clone()
    encoder.encode(WORDS).zero_()
    again = encoder.encode(WORDS)
    torch.testing.assert_close(again, first.clone())
    weight = torch.ones(24, requires_grad=True)
    (again @ weight).sum().backward()
    assert not again.requires_grad and weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        encoder.cache.clear()
        torch.testing.assert_close(encoder.encode(WORDS), again)
    torch.testing.assert_close(copy.deepcopy(encoder).encode(WORDS), again)


@pytest.mark.parametrize("text", [{"embed_cls": True}, {"pool_type": "none"}])
def test_refuses_text_towers_of_another_kind(text: dict) -> None:
    model = CustomTextCLIP(24, VISION, {**TEXT, **text})
    with pytest.raises(TypeError, match="CustomTextCLIP"):
        ClipTextEncoder(model, open_clip.get_tokenizer("ViT-B-16"))


def test_refuses_a_model_without_text() -> None:
    with pytest.raises(TypeError, match="Linear"):
        ClipTextEncoder(nn.Linear(2, 2), open_clip.get_tokenizer("ViT-B-16"))


def test_steps_that_pytorch_does_not_count_are_seen_after_training() -> None:
    torch.manual_seed(0)
    encoder = ClipTextEncoder(make_clip(), open_clip.get_tokenizer("ViT-B-16")).eval()
    before = encoder.encode(WORDS)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True)
    encoder.train()
    encoder(WORDS)[0, 0].backward()
    optimizer.step()
    after = encoder.eval().encode(WORDS)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, encoder(WORDS))
