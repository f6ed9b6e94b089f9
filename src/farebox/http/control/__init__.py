"""The control plane's handlers, one module for each family of URLs; each begins with the shapes it answers with."""
