"""Work and memory of a step: against hand-worked values, and on fake tensors as on real ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from escnet.training.estimation.counting import footprint, forward_flops, graph_bytes, on_fake_device, training_flops

BATCH, WIDTH = 5, 7
PRODUCT = 2 * BATCH * WIDTH * WIDTH


def layers(*trained: bool) -> nn.Sequential:
    modules = [nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(trains) for trains in trained]
    return nn.Sequential(*modules)


def inputs() -> Tensor:
    return torch.randn(BATCH, WIDTH)


def test_a_backward_pass_costs_what_has_to_be_computed() -> None:
    # The first that trains needs the gradient of its weights alone; behind it, one that trains needs two products,
    # and one that passes gradients on needs one; what lies before it needs none.
    for trained, products in [((True,), 1), ((True, True), 3), ((True, False), 2), ((False, True, False, True), 4)]:
        model = layers(*trained)
        forward, backward = training_flops(lambda model=model: model(inputs()).sum())
        assert (forward, backward) == (len(trained) * PRODUCT, products * PRODUCT)


def test_attention_without_gradients_is_counted() -> None:
    attention = nn.MultiheadAttention(WIDTH, 1, batch_first=True).eval()
    tokens = torch.randn(1, BATCH, WIDTH)
    # Query, key, value and output projections, then scores and their sums.
    flops = forward_flops(lambda: attention(tokens, tokens, tokens, need_weights=False))
    assert flops == 4 * PRODUCT + 2 * (2 * BATCH * BATCH * WIDTH)


def test_a_graph_holds_inputs_once_and_no_parameters() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, 3), nn.GELU(), nn.Linear(3, 2))
    x = inputs()
    held = graph_bytes(lambda: model(x).sum() + model[0](x).sum(), model.parameters())
    # The input once though two products need it, what GELU is given, and what it gives.
    assert held == 4 * (BATCH * WIDTH + BATCH * 3 + BATCH * 3)


def test_what_a_loss_does_not_depend_on_is_not_held() -> None:
    model, further = layers(True), layers(True)

    def loss() -> Tensor:
        hidden = model(inputs())
        further(hidden.square()).sum()
        return hidden.sum()

    assert graph_bytes(loss, [*model.parameters(), *further.parameters()]) == 4 * BATCH * WIDTH


def test_the_most_memory_at_once_and_what_computes() -> None:
    x = inputs()

    def run() -> None:
        doubled = x * 2
        tripled = x.view(-1) * 3  # beside it; a view takes nothing
        del doubled
        (tripled + 1).sum()  # two of a size again, then a scalar

    counted = footprint(run, [x])
    assert counted.operators == 4 and counted.memory == 4 * (2 * BATCH * WIDTH + 1)


def test_a_backward_pass_takes_memory_too() -> None:
    model = layers(True, True)
    own = list(model.parameters())

    def step() -> None:
        model(inputs()).square().sum().backward()

    with on_fake_device("cpu", model):
        fake = footprint(step, list(model.parameters()))
    real = footprint(step, own)
    assert fake == real
    # At least the gradients, and the activations that they need.
    assert real.memory >= 4 * (WIDTH * WIDTH + 2 * BATCH * WIDTH) and real.operators > 8


def test_a_fake_device_holds_what_a_real_one_holds_and_gives_parameters_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Softmax(dim=1), nn.Conv2d(4, 2, 1))
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def held() -> int:
        own = [*model.parameters(), *model.buffers()]
        return graph_bytes(lambda: model(torch.zeros(2, 3, 9, 9, device=own[0].device)).sum(), own)

    real = held()
    with on_fake_device("cpu", model):
        assert held() == real > 0
    with on_fake_device("cuda", model):
        assert held() == real
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[name] is tensor for name, tensor in before.items())


def test_half_precision_on_a_fake_gpu_has_the_types_of_a_gpu() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Softmax(dim=-1), nn.Linear(WIDTH, 1, bias=False))
    with on_fake_device("cuda", model, dtype=torch.bfloat16):
        x = torch.zeros(BATCH, WIDTH, device="cuda")
        held = graph_bytes(lambda: model(x).sum(), model.parameters())
    # In bf16 the input, the softmax' result for the second product, and the weights of that; in fp32, as autocast has
    # it on a GPU, the softmax' result itself.
    assert held == 2 * (BATCH * WIDTH + BATCH * WIDTH + WIDTH) + 4 * BATCH * WIDTH
    assert not torch.is_autocast_enabled("cuda")
