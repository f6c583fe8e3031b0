"""Plugins by name: what is installed, how it is loaded, and the options it takes. Knows no run."""
