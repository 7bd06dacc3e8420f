"""Where a user comes in: a fit from one start, from many, of a stream."""
