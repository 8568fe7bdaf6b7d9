"""Files that segment without PyTorch: ONNX graphs of the systems, and what they are compared with."""
