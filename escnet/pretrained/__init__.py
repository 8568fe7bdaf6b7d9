"""Weights: found on this machine or fetched, read without executing code, and loaded only if all of them fit."""
