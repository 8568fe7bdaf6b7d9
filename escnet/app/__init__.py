"""The page of `python -m escnet app`: a picture and words in a browser, masks over the picture; all on one machine."""
