"""Dynamic routes: their elements, their validation, and the path of a request through them. Pure functions."""
