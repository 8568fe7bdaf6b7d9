"""The miniature: small CLIP, SAM and ESC-Net for MojiScenes, from their pretraining to the weights that are shipped."""
