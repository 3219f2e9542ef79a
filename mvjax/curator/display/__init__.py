"""One problem's way through the curator, to look at."""
