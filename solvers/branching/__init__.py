"""Branch-and-bound searches."""
