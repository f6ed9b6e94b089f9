"""What the project's speed is measured with. See README.md in this folder."""
