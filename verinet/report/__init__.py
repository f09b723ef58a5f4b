"""Tables and one-file HTML reports of batch runs."""
