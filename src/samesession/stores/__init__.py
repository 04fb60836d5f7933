"""One engine, or one layer over another store, a file."""
