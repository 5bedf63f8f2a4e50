"""Every operation of an operator, once: the command line and every console are fronts of this package."""
