"""The model as PyMC sees it."""
