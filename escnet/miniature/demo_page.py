"""The page of the demonstration: one HTML file with the scores, the training curve and pictures step by step."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from escnet.drawing.prompt_sheets import Example, draw_examples
from escnet.evaluation.report.html_report import data_uri
from escnet.evaluation.runs.run_folder import read_json
from escnet.miniature.world.classes import BASE, NOVEL
from escnet.miniature.world.glyphs import ATTRIBUTION
from escnet.safe_files import replacing

PAGE, EXAMPLES, CURVE = "index.html", "examples.png", "training.png"
_HEADINGS = {
    "mojiscenes_val_base": f"{len(BASE)} things with masks (base)",
    "mojiscenes_val_novel": f"{len(NOVEL)} things without (novel)",
    "mojiscenes_val_847": "all, among 847 words",
}


def write_page(
    output: Path,
    evaluation: Path,
    training: Path,
    examples: Sequence[Example],
    num_classes: int,
    minutes: float,
) -> Path:
    """Write the page and its two pictures.

    Args:
        output: folder of the page.
        evaluation: folder of the evaluation, with its table.json.
        training: folder of the training, with its metrics.json.
        examples: pictures with what the model made of them.
        num_classes: of their dataset.
        minutes: that the demonstration took.

    Returns:
        The page; it needs no other file, and asks nothing of the network.

    Raises:
        ResultsError: a file of the evaluation is missing or damaged.
    """
    losses = training_losses(training / "metrics.json")
    _save(output / EXAMPLES, draw_examples(examples, num_classes))
    _save(output / CURVE, _draw_curve(losses))
    table = read_json(evaluation / "table.json")
    environment = Environment(
        loader=PackageLoader("escnet.miniature"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("demo.html").render(
        minutes=minutes,
        captioned=len(BASE) + len(NOVEL),
        base=len(BASE),
        novel=len(NOVEL),
        iterations=losses[-1][0] + 1,
        columns=[column | {"heading": _heading(column)} for column in table["columns"]],
        rows=list(_rows(table)),
        notes=table.get("notes", []),
        report=evaluation / "report.html",
        curve=data_uri(output / CURVE),
        examples=data_uri(output / EXAMPLES),
        attribution=ATTRIBUTION,
    )
    page = output / PAGE
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def training_losses(metrics: Path) -> list[tuple[int, float]]:
    """(iteration, loss) from the metrics.json of a training."""
    lines = (json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines())
    return [(line["iteration"], line["total_loss"]) for line in lines if "total_loss" in line]


def _heading(column: Mapping[str, Any]) -> str:
    name = column["dataset"].split("[")[0]
    return _HEADINGS.get(name, column["title"])


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in table["rows"]:
        cells = []
        for column in table["columns"]:
            scores = [other["scores"][column["dataset"]]["miou"] for other in table["rows"]]
            miou = row["scores"][column["dataset"]]["miou"]
            cells.append({"text": f"{100 * miou:.1f}", "is_best": miou == max(scores)})
        rows.append({"model": row["model"], "cells": cells})
    return rows


def _draw_curve(losses: Sequence[tuple[int, float]]) -> Image.Image:
    figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
    axes.plot(*zip(*losses, strict=True), color="#3572b0")
    axes.set(xlabel="iteration", ylabel="loss", ylim=(0, 1.05 * max(loss for _, loss in losses)))
    axes.grid(alpha=0.3)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
    return Image.open(stream)


def _save(path: Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
