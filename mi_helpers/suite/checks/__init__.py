"""The checks of the exercises: a module ``nbNN`` for each notebook."""
