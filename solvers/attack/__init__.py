"""Searches for violating inputs. They only propose: the witness replay decides."""
