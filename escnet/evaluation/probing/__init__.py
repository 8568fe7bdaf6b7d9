"""Probing: heads and classifiers trained on the hidden states of a frozen image encoder, to judge what it knows."""
