"""`python -m deconvviz` is `deconvviz`."""

from deconvviz.cli.main import main

main()
