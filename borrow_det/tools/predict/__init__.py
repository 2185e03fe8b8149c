"""Detection in images and videos."""
