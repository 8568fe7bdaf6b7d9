"""What users draw with: class overlays, and sheets of correlation maps and prompts."""

from escnet.drawing.overlay import overlay
from escnet.drawing.palette import palette
from escnet.drawing.prompt_sheets import draw_prompts

__all__ = ["draw_prompts", "overlay", "palette"]
