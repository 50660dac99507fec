"""An empty stand-in for ray: see README.md two folders up."""
