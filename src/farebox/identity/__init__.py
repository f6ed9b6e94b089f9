"""The people who use the pages: how they sign in, what they may do, and their browsers' sessions."""
