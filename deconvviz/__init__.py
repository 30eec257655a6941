"""deconvviz: what a CNN has learned, and why it decides as it does."""

from deconvviz.graph.capture import capture
from deconvviz.graph.network import Network

__version__ = "0.1.0"
__all__ = ["Network", "capture"]
