"""The experiments of the lecture, each a short program over the public API."""
