"""Optimisers for cone data: our structured interior point and first-order methods; cvxpy back ends."""
