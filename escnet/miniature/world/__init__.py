"""MojiScenes: a miniature world of OpenMoji glyphs on procedural ground, with exact masks and captions."""
