"""What a segmentation says, in the formats of other tools: COCO, YOLO, supervision, Label Studio, GeoTIFF."""

from __future__ import annotations

# What `predict --format` writes.
FORMATS = ("coco", "yolo", "label_studio", "geotiff")
