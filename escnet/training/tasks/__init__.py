"""What the trainer trains: segmentation by words, contrast of pictures and captions, masks from prompts."""
