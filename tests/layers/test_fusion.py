"""Vision-language fusion: windows and class attention against brute force, and its symmetries."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from escnet.layers.class_attention import ClassAttention
from escnet.layers.fusion import GUIDANCES, VisionLanguageFusion
from escnet.layers.swin import GuidedSwinBlock, window_plan

DIM, FEATURES, TEXT = 8, 12, 10


def make_fusion(guidance: str = "input+qk") -> VisionLanguageFusion:
    torch.manual_seed(0)
    fusion = VisionLanguageFusion(DIM, FEATURES, TEXT, num_heads=2, window=4, guidance=guidance).eval()
    torch.nn.init.normal_(fusion.change.weight)  # else the refined map is the given one
    for block in fusion.swin:
        torch.nn.init.normal_(block.position_bias)
    return fusion


def make_inputs(classes: int = 5, grid: tuple[int, int] = (6, 8), batch: int = 2):
    torch.manual_seed(1)
    cells = grid[0] * grid[1]
    return {
        "correlation": torch.rand(batch, classes, *grid),
        "embedding": torch.randn(batch, classes, cells, DIM),
        "features": torch.randn(batch, cells, FEATURES),
        "text": torch.randn(batch, classes, TEXT),
        "logit_scale": 10.0,
    }


def brute_force_attention(block: GuidedSwinBlock, x, guide, grid, window, shift):
    """Attention of a Swin block on one class, (hw, d), cell by cell over the cells of its window."""
    h, w = grid
    qkv = block.qkv(x)
    qkv[:, : 2 * DIM] += guide
    query, key, value = (t.view(h * w, block.num_heads, -1) for t in qkv.chunk(3, dim=-1))
    rows = -(-h // window) * window
    columns = -(-w // window) * window

    def place(cell):
        """Window and position in it of a cell after the roll, and whether it was carried round."""
        y, x = cell // w, cell % w
        yy, xx = (y - shift) % rows, (x - shift) % columns
        return (yy // window, xx // window), (yy % window, xx % window), (y < shift, x < shift)

    out = torch.zeros(h * w, block.num_heads, value.shape[-1])
    for i in range(h * w):
        window_i, (a, b), side_i = place(i)
        seen, scores = [], []
        for j in range(h * w):
            window_j, (c, d), side_j = place(j)
            if window_i == window_j and side_i == side_j:
                offset = (a - c + window - 1) * (2 * window - 1) + (b - d + window - 1)
                seen.append(j)
                scores.append((query[i] * key[j]).sum(-1) * query.shape[-1] ** -0.5 + block.position_bias[:, offset])
        weights = torch.stack(scores).softmax(dim=0)
        out[i] = (weights.unsqueeze(-1) * value[seen]).sum(0)
    return out.flatten(1)


@pytest.mark.parametrize("grid", [(8, 8), (4, 8), (6, 7), (3, 5)])
@pytest.mark.parametrize("shift", [0, 2])
@torch.no_grad()
def test_windows_equal_brute_force(grid, shift):
    torch.manual_seed(0)
    block = GuidedSwinBlock(DIM, FEATURES, num_heads=2, window=4, shift=shift).eval()
    torch.nn.init.normal_(block.position_bias)
    x = torch.randn(1, 3, grid[0] * grid[1], DIM)
    guide = block.guide(torch.randn(1, 1, grid[0] * grid[1], FEATURES))
    attended = torch.stack(
        [brute_force_attention(block, block.norm1(c), guide[0, 0], grid, 4, shift) for c in x[0]]
    ).unsqueeze(0)
    expected = x + block.proj(attended)
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x, guide, grid), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta stands for any device to which a plan is copied
def test_a_block_that_has_predicted_can_be_trained(device):
    window_plan.cache_clear()
    block = GuidedSwinBlock(DIM, 0, num_heads=2, window=3, shift=1).to(device)
    x = torch.randn(1, 2, 5 * 7, DIM, device=device)
    with torch.inference_mode():
        block(x, None, (5, 7))
    block(x, None, (5, 7)).sum().backward()
    assert block.position_bias.grad.shape == block.position_bias.shape


def test_every_cell_has_one_place():
    for grid in [(24, 24), (7, 13), (12, 12)]:
        plan = window_plan(grid, 12, 6)
        assert plan.cells.flatten()[plan.place].tolist() == list(range(grid[0] * grid[1]))


@torch.no_grad()
def test_class_attention_equals_the_quadratic_sum():
    torch.manual_seed(0)
    attention = ClassAttention(DIM, TEXT, num_heads=2).eval()
    x, text = torch.randn(1, 5, 3, DIM), torch.randn(1, 5, TEXT)
    y = attention.norm1(x)
    text_query, text_key = attention.text(text).unsqueeze(2).chunk(2, dim=-1)
    query = F.elu(attention.query(y) + text_query) + 1
    key, value = attention.key_value(y).chunk(2, dim=-1)
    key = F.elu(key + text_key) + 1
    out = torch.zeros_like(x)
    for p in range(3):
        for head in range(2):
            c = slice(head * DIM // 2, (head + 1) * DIM // 2)
            weights = query[0, :, p, c] @ key[0, :, p, c].T
            out[0, :, p, c] = weights / weights.sum(1, keepdim=True) @ value[0, :, p, c]
    expected = x + attention.proj(out)
    expected = expected + attention.mlp(attention.norm2(expected))
    result = attention(x, text, attention.context(x, text, (1, 3)), (1, 3))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
@torch.no_grad()
def test_pooled_class_attention_changes_the_means_of_squares(grid):
    torch.manual_seed(0)
    attention, fine = (ClassAttention(DIM, TEXT, num_heads=2, pool=pool).eval() for pool in (2, 1))
    fine.load_state_dict(attention.state_dict())
    x, text = torch.randn(2, 5, grid[0] * grid[1], DIM), torch.randn(2, 5, TEXT)
    rows, columns = (-(-side // 2) for side in grid)
    maps = x.unflatten(2, grid)
    pooled = torch.stack(
        [
            maps[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(2, 3))
            for row in range(rows)
            for column in range(columns)
        ],
        dim=2,
    )
    small = (rows, columns)
    change = fine(pooled, text, fine.context(pooled, text, small), small) - pooled
    up = F.interpolate(change.flatten(0, 1).transpose(1, 2).unflatten(2, small), grid, mode="bilinear")
    expected = x + up.flatten(2).transpose(1, 2).unflatten(0, (2, 5))
    result = attention(x, text, attention.context(x, text, grid), grid)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_parallel_aggregation_sees_the_same_embedding_twice():
    torch.manual_seed(0)
    fusion = VisionLanguageFusion(DIM, FEATURES, TEXT, num_heads=2, window=4, aggregation="parallel").eval()
    inputs = make_inputs()
    grid, text = tuple(inputs["correlation"].shape[-2:]), inputs["text"]
    logits = inputs["correlation"] - inputs["correlation"].mean(dim=(1, 2, 3), keepdim=True)
    embedded, guides = fusion._guide(inputs["features"].unsqueeze(1))
    x = fusion.embed((logits * inputs["logit_scale"]).flatten(2).unsqueeze(-1)) + inputs["embedding"] + embedded
    attention = fusion.class_attention
    over_classes, over_space = attention(x, text, attention.context(x, text, grid), grid), x
    for block, guide in zip(fusion.swin, guides, strict=True):
        over_space = block(over_space, guide, grid)
    expected = fusion.mixture(over_space, over_classes)
    torch.testing.assert_close(fusion(**inputs)[1], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fusion(**inputs, chunk=2)[1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("per_class", [False, True])
@torch.no_grad()
def test_permuting_the_classes_permutes_the_result(per_class):
    fusion, inputs = make_fusion(), make_inputs()
    if per_class:
        inputs["features"] = torch.randn(2, 5, 48, FEATURES)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = {k: v[:, order] if torch.is_tensor(v) and v.shape[1] == 5 else v for k, v in inputs.items()}
    for result, expected in zip(fusion(**permuted), fusion(**inputs), strict=True):
        torch.testing.assert_close(result, expected[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
@torch.no_grad()
def test_chunks_do_not_change_the_result(chunk):
    fusion, inputs = make_fusion(), make_inputs()
    for result, expected in zip(fusion(**inputs, chunk=chunk), fusion(**inputs), strict=True):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", GUIDANCES)
@torch.no_grad()
def test_shared_features_equal_the_same_features_for_each_class(guidance):
    fusion, inputs = make_fusion(guidance), make_inputs()
    expected = fusion(**inputs)
    inputs["features"] = inputs["features"].unsqueeze(1).expand(-1, 5, -1, -1)
    for result, e in zip(fusion(**inputs), expected, strict=True):
        torch.testing.assert_close(result, e, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", GUIDANCES)
@torch.no_grad()
def test_features_enter_where_the_guidance_says(guidance):
    fusion, inputs = make_fusion(guidance), make_inputs()
    embedded, guides = fusion._guide(inputs["features"].unsqueeze(1))
    assert (embedded is not None) == ("input" in guidance)
    assert all((part is not None) == ("qk" in guidance) for part in guides)
    expected, _ = fusion(**inputs)
    inputs["features"] = inputs["features"].flip(1)
    assert not torch.allclose(fusion(**inputs)[0], expected, atol=1e-3)


@torch.no_grad()
def test_the_embedding_is_a_projection_of_correlation_and_features_side_by_side():
    fusion = make_fusion("input")
    logits, features = torch.randn(2, 3, 48, 1), torch.randn(2, 3, 48, FEATURES)
    norm, project = fusion.embed_features
    weight = torch.cat([fusion.embed.weight, project.weight], dim=1)
    expected = F.linear(torch.cat([logits, norm(features)], dim=-1), weight, fusion.embed.bias)
    torch.testing.assert_close(fusion.embed(logits) + fusion._guide(features)[0], expected)


def test_an_unknown_guidance_is_refused():
    with pytest.raises(ValueError, match=r"guidance must be one of .*'kv'"):
        make_fusion("kv")
    with pytest.raises(ValueError, match=r"aggregation must be one of .*'both'"):
        VisionLanguageFusion(DIM, FEATURES, TEXT, aggregation="both")


def test_recomputation_keeps_the_gradients():
    fusion, inputs = make_fusion(), make_inputs()
    gradients = []
    for recompute in (False, True):
        refined, embedding = fusion(**inputs, chunk=2, recompute=recompute)
        loss = refined.square().sum() + embedding.square().mean()
        gradients.append(torch.autograd.grad(loss, list(fusion.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_untrained_step_keeps_the_correlation_map():
    fusion = VisionLanguageFusion(DIM, FEATURES, TEXT, num_heads=2, window=4)
    inputs = make_inputs()
    refined, _ = fusion(**inputs)
    torch.testing.assert_close(refined, inputs["correlation"])
