"""What runs the files of tools/export.py, by NumPy and ONNX Runtime: nothing in here imports PyTorch but `programs`."""
