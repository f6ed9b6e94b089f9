"""The duration of audio, read from its bytes: by walking its frames, not by trusting its header."""
