"""deconvviz: what a CNN has learned, and why it decides as it does."""

from deconvviz.deconv.project import Box, Projection, project, project_units
from deconvviz.graph.capture import capture
from deconvviz.graph.network import Layer, Network

__version__ = "0.1.0"
__all__ = ["Box", "Layer", "Network", "Projection", "capture", "project", "project_units"]
