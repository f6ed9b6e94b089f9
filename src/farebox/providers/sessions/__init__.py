"""WebSockets at providers: which paths are served, and what their messages say about money."""
