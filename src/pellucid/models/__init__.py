"""One file an architecture: its configuration, layers and heads, from the first line of its paper to its losses."""
