"""The batch engine: `jaxplain.explain_dataset`, and `ExplainBatches` for other pipelines."""

from typing import TYPE_CHECKING

from jaxplain.core.lazy import import_when_asked

if TYPE_CHECKING:
    from jaxplain.engine.mapping import ExplainBatches
    from jaxplain.engine.run import explain_dataset

__all__ = ["ExplainBatches", "explain_dataset"]

import_when_asked(__name__, {"ExplainBatches": "mapping", "explain_dataset": "run"})
