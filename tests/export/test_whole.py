"""Tests of one graph put together: its glue against NumPy's, with stand-ins for the pieces of a model."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, parser

from escnet.export.whole import assemble
from escnet.exported.label_map import label_map
from escnet.exported.narrowing import Choice, segment

_HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
# Features are the image as a map of three channels, a share of a word its largest product with any cell.
_PIECES = {
    "encode": """(uint8[h, w, 3] image) => (float[1, 3, h, w] feature_0) {
        pixels = Cast <to = 1> (image)
        scale = Constant <value = float {50.0}> ()
        small = Div (pixels, scale)
        axes = Constant <value = int64[1] {0}> ()
        planes = Transpose <perm = [2, 0, 1]> (small)
        feature_0 = Unsqueeze (planes, axes)
    }""",
    "shares": """(float[1, 3, h, w] feature_0, float[n, 3] text) => (float[1, n] shares) {
        axes = Constant <value = int64[2] {2, 3}> ()
        mean = ReduceMax <keepdims = 0> (feature_0, axes)
        across = Transpose <perm = [1, 0]> (text)
        product = MatMul (mean, across)
        shares = Softmax <axis = 1> (product)
    }""",
    "segment": """(float[1, 3, h, w] feature_0, float[n, 3] text) => (float[1, n, h, w] logits) {
        axes = Constant <value = int64[1] {0}> ()
        maps = Squeeze (feature_0, axes)
        last = Transpose <perm = [1, 2, 0]> (maps)
        across = Transpose <perm = [1, 0]> (text)
        product = MatMul (last, across)
        first = Transpose <perm = [2, 0, 1]> (product)
        logits = Unsqueeze (first, axes)
    }""",
    "draw": """(float[1, 3, h, w] feature_0, float[n, 3] text, int64[k] asked)
    => (float[k, h, w] masks, float[k] quality) {
        words = Gather <axis = 0> (text, asked)
        axes = Constant <value = int64[1] {0}> ()
        end = Constant <value = int64[1] {1}> ()
        maps = Squeeze (feature_0, axes)
        last = Transpose <perm = [1, 2, 0]> (maps)
        across = Transpose <perm = [1, 0]> (words)
        product = MatMul (last, across)
        masks = Transpose <perm = [2, 0, 1]> (product)
        quality = ReduceMean <keepdims = 0> (words, end)
    }""",
    "masked": """(float[1, 3, h, w] feature_0, float[n, 3] text, int64[k] asked, float[k, h, w] masks, float[k] quality)
    => (float[1, n, h, w] logits) {
        axes = Constant <value = int64[1] {0}> ()
        sides = Constant <value = int64[2] {1, 2}> ()
        maps = Squeeze (feature_0, axes)
        last = Transpose <perm = [1, 2, 0]> (maps)
        across = Transpose <perm = [1, 0]> (text)
        product = MatMul (last, across)
        first = Transpose <perm = [2, 0, 1]> (product)
        drawn = Sigmoid (masks)
        wide = Unsqueeze (quality, sides)
        weighted = Mul (drawn, wide)
        place = Unsqueeze (asked, axes)
        rows = Transpose <perm = [1, 0]> (place)
        scored = ScatterND <reduction = "add"> (first, rows, weighted)
        logits = Unsqueeze (scored, axes)
    }""",
}  # fmt: skip


def piece(name: str) -> ModelProto:
    model = parser.parse_model(f"{_HEAD} {name} {_PIECES[name]}")
    onnx.checker.check_model(model)
    return model


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString())


PLAIN = {"encode": "encode", "segment": "segment"}
NARROWING = {**PLAIN, "rank": "shares", "first": "shares"}
DRAWING = {"encode": "encode", "ask": "shares", "draw": "draw", "segment": "masked"}


@pytest.mark.parametrize(
    ("names", "choice"),
    [
        (PLAIN, Choice()),
        (NARROWING, Choice(most=6)),
        (NARROWING, Choice(most=20, keep=4)),
        (NARROWING, Choice(keep=5, keep_share=0.02, keep_least=2)),
        (NARROWING, Choice(most=7, keep=5, keep_share=0.9, keep_least=2)),
        (DRAWING, Choice(draw_at_once=2)),
        (DRAWING, Choice(ask_above=0.02)),
        (DRAWING, Choice(ask_above=2.0)),  # no word is asked for
    ],
)
@pytest.mark.parametrize("words", [1, 3, 12])
def test_the_graph_does_what_numpy_does(names: dict[str, str], choice: Choice, words: int) -> None:
    random = np.random.default_rng(words)
    image = random.integers(0, 255, (9, 14, 3), dtype=np.uint8)
    text = random.normal(size=(words, 3)).astype(np.float32)
    pieces = {name: piece(stand_in) for name, stand_in in names.items()}
    graphs = {name: session(model) for name, model in pieces.items()}

    def run(name: str, given: dict) -> dict:
        outputs = [output.name for output in graphs[name].get_outputs()]
        found = graphs[name].run(None, {value.name: given[value.name] for value in graphs[name].get_inputs()})
        return dict(zip(outputs, found, strict=True))

    runs = {name: lambda given, name=name: run(name, given) for name in graphs}
    logits, rows = segment(runs, choice, run("encode", {"image": image}), text)
    best, scores = label_map(logits, image.shape[:2])
    open_graph = session(assemble(pieces, choice, 3, None))
    labels, found, kept = open_graph.run(None, {"image": image, "text": text})
    assert kept.tolist() == rows.tolist()
    np.testing.assert_array_equal(labels, rows[best])
    np.testing.assert_allclose(found, scores, atol=1e-5)
    classes = random.integers(0, 4, words)
    of_words = session(assemble(pieces, choice, 3, None, text, classes))
    labels, found, kept = of_words.run(None, {"image": image})
    assert kept.tolist() == rows.tolist()
    np.testing.assert_array_equal(labels, classes[rows][best])


def test_the_feature_of_no_word_is_an_input_where_words_are() -> None:
    drawing = _PIECES["draw"].replace("int64[k] asked)", "int64[k] asked, float[3] empty)")
    drawing = drawing.replace(
        "words = Gather <axis = 0> (text, asked)", "full = Gather <axis = 0> (text, asked)\n words = Sub (full, empty)"
    )
    pieces = {name: piece(stand_in) for name, stand_in in DRAWING.items() if name != "ask"}
    pieces["draw"] = parser.parse_model(f"{_HEAD} draw {drawing}")
    text = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    image = np.random.default_rng(1).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    empty = np.array([0.3, -0.2, 0.1], dtype=np.float32)
    open_graph = session(assemble(pieces, Choice(), 3, empty))
    assert [value.name for value in open_graph.get_inputs()] == ["image", "text", "empty"]
    of_words = session(assemble(pieces, Choice(), 3, empty, text, range(4)))
    assert [value.name for value in of_words.get_inputs()] == ["image"]
    scores = open_graph.run(["scores"], {"image": image, "text": text, "empty": empty})[0]
    np.testing.assert_array_equal(of_words.run(["scores"], {"image": image})[0], scores)
    others = open_graph.run(["scores"], {"image": image, "text": text, "empty": 3 * empty})[0]
    assert np.abs(others - scores).max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (40, 61)])
def test_labels_are_brought_to_the_size_of_the_image(size: tuple[int, int]) -> None:
    # The grid of logits is four times coarser or finer than the image.
    shrunk = dict(_PIECES)
    grid = np.random.default_rng(0).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    constant = ", ".join(f"{float(value)}" for value in (grid / 50.0).transpose(2, 0, 1).ravel())
    shrunk["encode"] = f"""(uint8[h, w, 3] image) => (float[1, 3, 5, 6] feature_0) {{
        feature_0 = Constant <value = float[1, 3, 5, 6] {{{constant}}}> ()
    }}"""
    encode = parser.parse_model(f"{_HEAD} encode {shrunk['encode']}")
    text = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    whole = session(assemble({"encode": encode, "segment": piece("segment")}, Choice(), 3, None))
    image = np.zeros((*size, 3), dtype=np.uint8)
    labels, scores, _ = whole.run(None, {"image": image, "text": text})
    logits = np.einsum("nd,hwd->nhw", text, (grid / 50.0).astype(np.float32))
    best, wanted = label_map(logits, size)
    np.testing.assert_array_equal(labels, best)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
