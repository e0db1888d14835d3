"""What recipients and owners are shown: grants and data in one snapshot, re-checked at every read."""
