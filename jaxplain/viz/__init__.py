"""Pictures of maps: colours, overlays on the image, labelled panels. Needs the extra `viz`.

Everything works on host arrays and matplotlib's object-oriented API: no pyplot, no global state,
no display.
"""

from jaxplain.viz.colour import STYLES, colourise
from jaxplain.viz.overlays import overlay
from jaxplain.viz.panels import panel, save

__all__ = ["STYLES", "colourise", "overlay", "panel", "save"]
