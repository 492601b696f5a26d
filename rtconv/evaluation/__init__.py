"""Replaying recordings, and measuring how well a detector does on them."""
