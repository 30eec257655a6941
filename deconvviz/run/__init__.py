"""How a job runs: its options, one pass over images, and a training that survives a kill."""

from deconvviz.run.options import RunKeywords, RunOptions

__all__ = ["RunKeywords", "RunOptions"]
