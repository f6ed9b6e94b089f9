"""WebSockets at providers: which paths are served, and what their messages mean for the cost."""
