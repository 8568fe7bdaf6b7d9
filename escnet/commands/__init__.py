"""Commands of the package, `python -m escnet NAME`; the scripts in `tools/` of the same names call them."""
