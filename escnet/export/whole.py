"""One ONNX graph from an image to its label map, put together of the graphs of a system and what is between them.

What `escnet.exported` does with NumPy is done in the graph: words are narrowed, asked for and drawn, one after the
other, and logits become labels, line by line, so that what is held at once does not grow with the picture's words times
its pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper, parser

from escnet.exported.narrowing import NOWHERE, Choice

_FLOAT, _INT64, _INT32, _UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8

# (1, N) shares to the places (M,) of the highest, so many.
_HIGHEST = """
highest (float[one, n] shares, int64 number) => (int64[m] rows) {
  first = Constant <value = int64[1] {0}> ()
  last = Constant <value_ints = [-1]> ()
  shape = Shape (shares)
  all = Gather <axis = 0> (shape, last)
  wanted = Reshape (number, last)
  k = Min (wanted, all)
  row = Squeeze (shares, first)
  best, places = TopK <axis = 0, largest = 1> (row, k)
  rows, order = TopK <axis = 0, largest = 0> (places, k)
}
"""

# How many are kept after a first pass: all if there are no more than `keep`, else those with a share, within bounds.
_KEPT = """
kept (float[one, n] shares, float share, int64 least, int64 keep) => (int64 number) {
  last = Constant <value_ints = [-1]> ()
  shape = Shape (shares)
  alls = Gather <axis = 0> (shape, last)
  none = Constant <value = int64[1] {0}> ()
  all = Squeeze (alls, none)
  seen = GreaterOrEqual (shares, share)
  counted = Cast <to = 7> (seen)
  sum = ReduceSum <keepdims = 0> (counted)
  raised = Max (sum, least)
  bounded = Min (raised, keep)
  is_few = LessOrEqual (all, keep)
  number = Where (is_few, all, bounded)
}
"""

# The words whose largest probability is above a bound; where there are none, the first, and that it is no more than a
# place for nothing.
_ASKED = """
asked (float[one, n] shares, float bound) => (int64[k] rows, bool is_empty) {
  none = Constant <value = int64[1] {0}> ()
  unit = Constant <value = int64[1] {1}> ()
  row = Squeeze (shares, none)
  above = Greater (row, bound)
  places = NonZero (above)
  found = Squeeze (places, none)
  count = Shape (found)
  missing = Sub (unit, count)
  fewest = Max (missing, none)
  fallback = Slice (none, none, fewest, none)
  rows = Concat <axis = 0> (found, fallback)
  empty = Equal (count, none)
  is_empty = Squeeze (empty, none)
}
"""

# (pixels, points) to the two points between which each pixel lies, and the weight of the second.
_NEIGHBOURS = """
neighbours (int64[1] pixels, int64[1] points) => (int64[p] first, int64[p] second, float[p] weight) {
  none = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  half = Constant <value = double {0.5}> ()
  nought = Constant <value = double {0.0}> ()
  begin = Squeeze (none, none)
  step = Squeeze (one, none)
  count = Squeeze (pixels, none)
  numbers = Range (begin, count, step)
  real = Cast <to = 11> (numbers)
  middles = Add (real, half)
  coarse = Cast <to = 11> (points)
  fine = Cast <to = 11> (pixels)
  factor = Div (coarse, fine)
  scaled = Mul (middles, factor)
  shifted = Sub (scaled, half)
  position = Max (shifted, nought)
  whole = Cast <to = 7> (position)
  last = Sub (points, one)
  first = Min (whole, last)
  next = Add (first, one)
  second = Min (next, last)
  base = Cast <to = 11> (first)
  share = Sub (position, base)
  weight = Cast <to = 1> (share)
}
"""

# Logits (1, M, h, w) and their classes (M,) to the class of each pixel and its probability, line by line: each lies
# between two rows of points, its pixels between two columns. `escnet.exported.label_map` does the same.
_LABELS = """
labels (
  float[b, m, h, w] logits, int64[m] classes, int64[y] above, int64[y] below, float[y] down,
  int64[x] left, int64[x] right, float[x] across
) => (int32[y, x] labels, float[y, x] scores) {
  none = Constant <value = int64[1] {0}> ()
  end = Constant <value = int64[1] {-1}> ()
  last = Constant <value = int64[1] {2147483647}> ()
  unit = Constant <value = float {1.0}> ()
  maps = Squeeze (logits, none)
  greatest = ReduceMax <keepdims = 1> (maps, none)
  apart = Sub (maps, greatest)
  power = Exp (apart)
  total = ReduceSum <keepdims = 1> (power, none)
  logarithm = Log (total)
  normaliser = Add (greatest, logarithm)
  stacked = Concat <axis = 0> (maps, normaliser)
  rest = Sub (unit, across)
  labels, scores = Scan <num_scan_inputs = 3, body = line (
    int64 upper, int64 lower, float share
  ) => (int32[x] label, float[x] score) {
    top = Gather <axis = 1> (stacked, upper)
    bottom = Gather <axis = 1> (stacked, lower)
    difference = Sub (bottom, top)
    moved = Mul (difference, share)
    strip = Add (top, moved)
    west = Gather <axis = 1> (strip, left)
    east = Gather <axis = 1> (strip, right)
    westward = Mul (west, rest)
    eastward = Mul (east, across)
    values = Add (westward, eastward)
    words = Slice (values, none, end, none)
    divisor = Slice (values, end, last, none)
    best = ArgMax <axis = 0, keepdims = 0> (words)
    highest = ReduceMax <keepdims = 0> (words, none)
    divided = Squeeze (divisor, none)
    logarithmic = Sub (highest, divided)
    score = Exp (logarithmic)
    class = Gather <axis = 0> (classes, best)
    label = Cast <to = 6> (class)
  }> (above, below, down)
}
"""


class _Assembly:
    """Nodes and values of a graph in the making; a piece is put in with names of its own."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.values: list[TensorProto] = []
        self._pieces = 0

    def constant(self, value: np.ndarray) -> str:
        """An array as a value; its name."""
        name = f"constant_{len(self.values)}"
        self.values.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """A node with one output; its name."""
        name = f"node_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def put(self, piece: GraphProto, given: Mapping[str, str]) -> list[str]:
        """A piece, its inputs by name; the names of its outputs."""
        nodes, values, outputs = self._renamed(piece, given)
        self.nodes.extend(nodes)
        self.values.extend(values)
        return outputs

    def put_for_each(self, piece: GraphProto, each: str, name: str, given: Mapping[str, str]) -> list[str]:
        """A piece once for each element of an array (K,), its input `name` (1,); its outputs together, (K, ...)."""
        body_input = f"{each}_one"
        nodes, values, outputs = self._renamed(piece, {**given, name: f"{body_input}_row"})
        self.values.extend(values)
        axis = self.constant(np.zeros(1, dtype=np.int64))
        before = [helper.make_node("Unsqueeze", [body_input, axis], [f"{body_input}_row"])]
        after = [helper.make_node("Squeeze", [output, axis], [f"{output}_one"]) for output in outputs]
        body = helper.make_graph(
            [*before, *nodes, *after],
            "each",
            [helper.make_tensor_value_info(body_input, _INT64, [])],
            [helper.make_tensor_value_info(f"{output}_one", _FLOAT, None) for output in outputs],
        )
        found = [f"{output}_each" for output in outputs]
        self.nodes.append(helper.make_node("Scan", [each], found, body=body, num_scan_inputs=1))
        return found

    def _renamed(
        self, piece: GraphProto, given: Mapping[str, str]
    ) -> tuple[list[NodeProto], list[TensorProto], list[str]]:
        self._pieces += 1
        own = compose.add_prefix_graph(piece, f"{piece.name}_{self._pieces}/")
        bound = [
            helper.make_node("Identity", [given[value.name]], [renamed.name])
            for value, renamed in zip(piece.input, own.input, strict=True)
        ]
        return [*bound, *own.node], list(own.initializer), [value.name for value in own.output]


def assemble(
    pieces: Mapping[str, ModelProto],
    choice: Choice,
    dim: int,
    empty: np.ndarray | None,
    text: np.ndarray | None = None,
    classes: Iterable[int] = (),
) -> ModelProto:
    """The graphs of a system as one: an image (H, W, 3) uint8 to labels (H, W) int32 and scores (H, W) float32.

    A third output, `kept`, has the rows of the words that competed for the pixels.

    Args:
        pieces: the graphs by name.
        choice: how words are narrowed.
        dim: D of the text features.
        empty: (D,) the feature of no word, for a system that asks for it; baked in only together with words.
        text: (N, D) features of the words; None: they are the graph's second input, `text`, and labels are its rows.
        classes: of the words, which labels are.
    """
    made = _Assembly()
    inputs = [helper.make_tensor_value_info("image", _UINT8, ["height", "width", 3])]
    if text is None:
        words = "text"
        inputs.append(helper.make_tensor_value_info(words, _FLOAT, ["words", dim]))
        number = None
    else:
        words, number = made.constant(text.astype(np.float32)), len(text)
    encoded = pieces["encode"].graph
    given = dict(zip([o.name for o in encoded.output], made.put(encoded, {"image": "image"}), strict=True))
    if empty is not None and text is None:
        # It depends on the templates, as the words do.
        given["empty"] = "empty"
        inputs.append(helper.make_tensor_value_info("empty", _FLOAT, [dim]))
    elif empty is not None:
        given["empty"] = made.constant(empty.astype(np.float32))
    rows = None
    if choice.most and (number is None or choice.most < number):
        (shares,) = made.put(pieces["rank"].graph, given | {"text": words})
        (rows,) = made.put(_glue(_HIGHEST), {"shares": shares, "number": made.constant(np.array(choice.most))})
        words, number = made.node("Gather", words, rows, axis=0), number and choice.most
    if choice.keep and (number is None or choice.keep < number):
        first = pieces["first"] if "first" in pieces else pieces["segment"]
        shares = made.put(first.graph, given | {"text": words})[-1]
        bounds = {"share": np.float32(choice.keep_share), "least": choice.keep_least, "keep": choice.keep}
        if not choice.keep_share > 0:
            bounds["least"] = choice.keep
        (count,) = made.put(
            _glue(_KEPT), {"shares": shares} | {name: made.constant(np.array(x)) for name, x in bounds.items()}
        )
        (places,) = made.put(_glue(_HIGHEST), {"shares": shares, "number": count})
        words = made.node("Gather", words, places, axis=0)
        rows = places if rows is None else made.node("Gather", rows, places, axis=0)
    if rows is None:
        rows = _all_rows(made, words)
    given["text"] = words
    if "draw" in pieces:
        given |= _draw(made, pieces, choice, given)
    logits = made.put(pieces["segment"].graph, given)[0]
    known = rows if text is None else made.node("Gather", made.constant(np.array(list(classes))), rows, axis=0)
    lines = _neighbours(made, "image", 0, logits, 2), _neighbours(made, "image", 1, logits, 3)
    places = dict(zip(("above", "below", "down", "left", "right", "across"), (*lines[0], *lines[1]), strict=True))
    labels, scores = made.put(_glue(_LABELS), {"logits": logits, "classes": known} | places)
    for found, name in ((labels, "labels"), (scores, "scores"), (rows, "kept")):
        made.nodes.append(helper.make_node("Identity", [found], [name]))
    outputs = [
        helper.make_tensor_value_info("labels", _INT32, ["height", "width"]),
        helper.make_tensor_value_info("scores", _FLOAT, ["height", "width"]),
        helper.make_tensor_value_info("kept", _INT64, ["kept_words"]),
    ]
    graph = helper.make_graph(made.nodes, "escnet", inputs, outputs, made.values)
    operators = {known.domain: known.version for piece in pieces.values() for known in piece.opset_import}
    return helper.make_model(
        graph,
        ir_version=max(piece.ir_version for piece in pieces.values()),
        opset_imports=[helper.make_opsetid(*known) for known in operators.items()],
        producer_name="escnet",
    )


def _draw(
    made: _Assembly, pieces: Mapping[str, ModelProto], choice: Choice, given: Mapping[str, str]
) -> dict[str, str]:
    """The masks of the words that are asked for, one after the other."""
    if choice.ask_above is None:
        asked, is_empty = _all_rows(made, given["text"]), None
    else:
        (shares,) = made.put(pieces["ask"].graph, given)
        bound = made.constant(np.array(choice.ask_above, dtype=np.float32))
        asked, is_empty = made.put(_glue(_ASKED), {"shares": shares, "bound": bound})
    masks, quality = made.put_for_each(pieces["draw"].graph, asked, "asked", given)
    if is_empty is not None:
        masks = made.node("Where", is_empty, made.constant(np.array(NOWHERE, dtype=np.float32)), masks)
    return {"asked": asked, "masks": masks, "quality": quality}


def _all_rows(made: _Assembly, words: str) -> str:
    count = made.node("Shape", words, start=0, end=1)
    scalar = made.node("Squeeze", count, made.constant(np.zeros(1, dtype=np.int64)))
    return made.node("Range", made.constant(np.array(0)), scalar, made.constant(np.array(1)))


def _neighbours(made: _Assembly, image: str, side: int, maps: str, axis: int) -> list[str]:
    pixels = made.node("Shape", image, start=side, end=side + 1)
    points = made.node("Shape", maps, start=axis, end=axis + 1)
    return made.put(_glue(_NEIGHBOURS), {"pixels": pixels, "points": points})


def _glue(text: str) -> GraphProto:
    return parser.parse_graph(text)
