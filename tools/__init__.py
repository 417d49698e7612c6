"""Tools that make data for the packages. Not part of the wheel."""
