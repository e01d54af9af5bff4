"""The batch engine: `jaxplain.explain_dataset`, and `ExplainBatches` for other pipelines."""

from jaxplain.engine.mapping import ExplainBatches
from jaxplain.engine.run import explain_dataset

__all__ = ["ExplainBatches", "explain_dataset"]
