"""Certified Lipschitz bounds: every network in one norm-bounded form, one LMI, certificates in float64."""
