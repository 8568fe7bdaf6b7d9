"""Datasets: reading, checking, registration, and samples for training and evaluation."""
