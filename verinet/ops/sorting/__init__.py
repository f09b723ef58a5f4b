"""Sorting within groups: GroupSort, TopK."""
