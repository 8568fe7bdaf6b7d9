"""Datasets: reading, registration with Detectron2 on import, mapping to training samples."""

from escnet.data.benchmarks import dataset_metadata, dataset_records

__all__ = ["dataset_metadata", "dataset_records"]
