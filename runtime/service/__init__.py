"""The HTTP service: uploads in, rows of the results table out; the only part of runtime that needs a web library."""
