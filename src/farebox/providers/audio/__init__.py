"""How long audio plays, read from its bytes: by walking its frames, not by believing its header."""
