"""Cases."""
CASES = ()
