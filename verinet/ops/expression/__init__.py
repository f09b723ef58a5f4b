"""Functions of one variable given by an expression: derivatives, curvature and errors found by interval arithmetic."""
