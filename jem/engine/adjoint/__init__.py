"""What a derivative of a fit is."""
