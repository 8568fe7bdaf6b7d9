"""Streams of image shards in WebDataset's convention, addressed by position: read, decoded, resumed, counted, made."""
