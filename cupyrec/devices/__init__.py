"""The one seam between NumPy and CuPy: memory, threads or streams, matrix products, kernel launches."""
