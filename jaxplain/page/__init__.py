"""Pages to look at in a browser: a gallery of the maps of a whole data set."""

from jaxplain.page.gallery import GallerySummary, gallery

__all__ = ["GallerySummary", "gallery"]
