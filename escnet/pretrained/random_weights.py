"""Configured models without trained weights: to count, to time, to try."""

from __future__ import annotations

from detectron2.config import CfgNode

# As MODEL.WEIGHTS, stands for a checkpoint that brings every weight, so that a model looks for no other file.
RANDOM = "random"


def random_weights(cfg: CfgNode) -> CfgNode:
    """A copy of a config by which a model is built as configured, with random weights; no file is read.

    Every key WEIGHTS under MODEL becomes "". All else stays, so what trains is what trains in the configured model.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for node in (cfg.MODEL, *cfg.MODEL.values()):
        if isinstance(node, CfgNode) and "WEIGHTS" in node:
            node.WEIGHTS = ""
    return cfg
