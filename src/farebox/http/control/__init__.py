"""The control plane's handlers, one module per family of URLs; each begins with the types it returns."""
