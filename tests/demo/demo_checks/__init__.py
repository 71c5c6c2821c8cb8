"""The checks of the demonstration notebook."""
