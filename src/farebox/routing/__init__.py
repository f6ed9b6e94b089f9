"""Dynamic routes: their elements, which of them are valid, and where a request goes. Functions of values alone."""
