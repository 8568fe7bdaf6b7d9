"""A folder of exported graphs, which is handed out whole and compared, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import escnet
from escnet.export.comparison import Agreement, compare
from escnet.export.graphs import parts_of, require_exportable, trace, without_chunks, write_onnx
from escnet.export.text import tokenizer_file
from escnet.meta_arch.correlation_model import CorrelationModel
from escnet.onnx_segmenter import CARD, FORM, TOKENIZER, OnnxSegmenter
from escnet.predictor import Segmenter
from escnet.vocabulary import Vocabulary


class DisagreementError(ValueError):
    """The graphs do not say what the model says; nothing was handed out."""


def export_folder(
    segmenter: Segmenter,
    folder: Path,
    pictures: Sequence[np.ndarray],
    words: Vocabulary,
    least_agreement: float,
    made_of: dict[str, Any],
    report: Callable[[str], None],
) -> Agreement:
    """Write the graphs of a model, run them by ONNX Runtime, and hand them out if they agree with PyTorch.

    Args:
        segmenter: with the model; it works on all classes at once afterwards.
        folder: that must not exist yet.
        pictures: (H, W, 3) uint8, by which graphs and model are compared.
        words: likewise.
        least_agreement: the share of pixels that must have the same label.
        made_of: of the configuration and weights, for the card.
        report: is given a line of each step.

    Raises:
        DisagreementError: fewer pixels agree.
        FileExistsError: the folder is there already.
        NotExportableError: for a model without graphs.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: is there already; name a folder that is not, or remove it")
    require_exportable(segmenter.model)
    without_chunks(segmenter.model)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        card = _write(segmenter, temporary, made_of, report)
        found = compare(OnnxSegmenter(temporary), segmenter, pictures, words)
        if not found.labels >= least_agreement:
            raise DisagreementError(
                f"{folder}: not written, as only {found.labels:.3%} of the pixels of {found.pictures} pictures have "
                f"the label that PyTorch gives, and {least_agreement:.3%} are asked for"
            )
        card["agreement"] = found._asdict() | {"words": list(words.class_names)}
        _write_card(temporary, card)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return found


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights, with their names, in order."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _write(segmenter: Segmenter, folder: Path, made_of: dict[str, Any], report: Callable[[str], None]) -> dict:
    model = segmenter.model
    (folder / TOKENIZER).write_text(tokenizer_file(model.clip_text.tokenizer), encoding="utf-8")
    graphs = {}
    for name, part in parts_of(model).items():
        graphs[name] = f"{name}.onnx"
        write_onnx(trace(part), folder / graphs[name])
        report(f"{graphs[name]}: {(folder / graphs[name]).stat().st_size / 2**20:.1f} MiB")
    start, end = model.clip_text.tokenizer.all_special_ids[:2]
    choice = model.choice if isinstance(model, CorrelationModel) else None
    card = {
        "form": FORM,
        "system": type(model).__name__,
        **made_of,
        "weights_sha256": weights_hash(model),
        "image_size": list(model.inference.image_size),
        "templates": list(Vocabulary(["word"], templates=segmenter.templates).templates),
        "graphs": graphs,
        "text": {"context_length": model.clip_text.context_length, "start": start, "end": end},
        "choice": {key: getattr(choice, key, 0) for key in ("most", "keep", "keep_share", "keep_least")},
        "versions": {"escnet": escnet.__version__, "torch": torch.__version__}
        | {package: version(package) for package in ("onnx", "onnxscript", "onnxruntime", "tokenizers")},
    }
    _write_card(folder, card)
    return card


def _write_card(folder: Path, card: dict) -> None:
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
