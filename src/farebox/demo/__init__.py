"""What `farebox serve --demo` and the tests talk to instead of the outside world: real HTTP, on this machine."""
