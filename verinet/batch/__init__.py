"""Many instances in one resumable run."""
