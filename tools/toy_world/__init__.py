"""Making, showing and accepting the toy world."""
