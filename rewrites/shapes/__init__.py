"""One spelling for operators that change shapes, with constants wherever the sizes are proved."""
