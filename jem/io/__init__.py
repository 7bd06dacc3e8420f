"""Files: what goes out of jem and comes in again."""
