"""The demo provider, which `farebox serve --demo` and the tests call instead of the outside world: real HTTP, on this
machine."""
