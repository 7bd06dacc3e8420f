"""What makes the next parameters."""
