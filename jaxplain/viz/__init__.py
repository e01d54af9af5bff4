"""Pictures of maps: colours, overlays on the image, labelled panels. Needs the extra `viz`.

Everything works on host arrays and matplotlib's object-oriented API: no pyplot, no global state,
no display.
"""

from jaxplain.viz.attention import attention_rows, flow_row
from jaxplain.viz.charts import confusion, score_bars
from jaxplain.viz.colour import STYLES, colourise
from jaxplain.viz.overlays import draw_box, overlay
from jaxplain.viz.panels import panel, save
from jaxplain.viz.principal_features import feature_overlay, feature_panel

__all__ = [
    "STYLES",
    "attention_rows",
    "colourise",
    "confusion",
    "draw_box",
    "feature_overlay",
    "feature_panel",
    "flow_row",
    "overlay",
    "panel",
    "save",
    "score_bars",
]
