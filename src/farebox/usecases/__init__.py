"""What the product does: one module for each thing, a plain function with its dependencies in `Services`."""
